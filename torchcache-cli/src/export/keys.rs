//! The file of `export --keys`: a key in each line, and anything after it.

use std::fs;
use std::path::{Path, PathBuf};

use torchcache_store::Key;
use torchcache_store::admin::{Cache, KeyedRows};

use crate::describe::NumberedSchema;
use crate::error::Error;
use crate::text::{count, counted, path_text};

/// The keys of a file.
pub(crate) struct KeyFile {
    path: PathBuf,
    pub(crate) keys: Vec<Key>,
    /// The line of each.
    lines: Vec<usize>,
}

impl KeyFile {
    pub(crate) fn read(path: &Path) -> Result<KeyFile, Error> {
        let text = fs::read(path).map_err(Error::io("read", path))?;
        let (mut keys, mut lines) = (Vec::new(), Vec::new());
        for (number, line) in (1..).zip(text.split(|byte| *byte == b'\n')) {
            let line = line.trim_ascii();
            if line.is_empty() {
                continue;
            }
            keys.push(parse(line).ok_or_else(|| {
                let (path, line) = (path_text(path), String::from_utf8_lossy(line));
                Error::failed(format!(
                    "{path}, line {number}: got `{line}`; expected the 64 hexadecimal digits of a key, and a space, tab \
                     or comma before anything that follows"
                ))
            })?);
            lines.push(number);
        }
        if keys.is_empty() {
            return Err(Error::failed(format!("{} has no keys", path_text(path))));
        }
        let path = path.to_owned();
        Ok(KeyFile { path, keys, lines })
    }

    /// Expects a row for each key.
    pub(crate) fn expect_all(
        &self,
        rows: &KeyedRows<'_>,
        cache: &Cache,
        schema: &NumberedSchema,
    ) -> Result<(), Error> {
        let missing = rows.missing();
        let Some(&first) = missing.first() else {
            return Ok(());
        };
        Err(Error::not_found(format!(
            "{} of {} in {} have no row of schema {} in {}; the first is line {}, {}. A process writes its rows about a \
             second after it computed them, or by `flush`",
            count(missing.len() as u64),
            counted(self.keys.len() as u64, "key"),
            path_text(&self.path),
            schema.number,
            cache.name(),
            self.lines[first],
            hex::encode(self.keys[first]),
        )))
    }
}

fn parse(line: &[u8]) -> Option<Key> {
    let end = line.iter().position(|byte| b" \t,".contains(byte));
    let mut key = Key::default();
    hex::decode_to_slice(&line[..end.unwrap_or(line.len())], &mut key).ok()?;
    Some(key)
}
