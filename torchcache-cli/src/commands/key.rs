//! `torchcache key`: the keys of rows with ids, which join exported rows with samples.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use serde_json::json;
use torchcache_store::ids::{self, IdBytes, IdKind};

use crate::args::{IdType, RowKeys};
use crate::error::Error;
use crate::output::CommandReport;
use crate::text::plain;

pub(crate) fn run(args: &RowKeys) -> Result<CommandReport, Error> {
    let read;
    let given = match &args.ids[..] {
        [] => {
            read = read_lines()?;
            &read
        }
        given => given,
    };
    let (mut text, mut rows) = (String::new(), Vec::with_capacity(given.len()));
    for id in given {
        let bytes = id.as_bytes();
        let key = ids::row_key(&args.prefix, &parse(bytes, &args.types)?);
        let (key, id) = (hex::encode(key), String::from_utf8_lossy(bytes));
        text += &format!("{key} {}\n", plain(&id));
        rows.push(json!({ "id": id, "key": key }));
    }
    Ok(CommandReport::source(text, json!({ "keys": rows })))
}

fn read_lines() -> Result<Vec<OsString>, Error> {
    let mut read = Vec::new();
    let failed = Error::io("read", Path::new("the standard input"));
    io::stdin().lock().read_to_end(&mut read).map_err(failed)?;
    let lines = read.strip_suffix(b"\n").unwrap_or(&read);
    let lines = lines.split(|byte| *byte == b'\n');
    let lines = lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    Ok(match read.is_empty() {
        true => Vec::new(),
        false => lines
            .map(|line| OsString::from_vec(line.to_vec()))
            .collect(),
    })
}

/// What a key has of an id.
fn parse(id: &[u8], types: &[IdType]) -> Result<IdBytes, Error> {
    if let [only] = types {
        return Ok(element(id, *only)?.1);
    }
    let elements: Vec<_> = id.split(|byte| *byte == b'\t').collect();
    if elements.len() != types.len() {
        return Err(Error::failed(format!(
            "the id `{}` has {} elements, and --type {}; tabs separate elements",
            String::from_utf8_lossy(id),
            elements.len(),
            types.len(),
        )));
    }
    let elements = elements.into_iter().zip(types);
    let elements = elements.map(|(bytes, of)| element(bytes, *of));
    Ok(ids::tuple(elements.collect::<Result<Vec<_>, _>>()?))
}

fn element(bytes: &[u8], of: IdType) -> Result<(IdKind, IdBytes), Error> {
    let expected = |what| {
        let got = String::from_utf8_lossy(bytes);
        Error::failed(format!("got the id `{got}`; expected {what}"))
    };
    let text = std::str::from_utf8(bytes).ok();
    Ok(match of {
        IdType::Text => (IdKind::Text, ids::bytes(bytes)),
        IdType::Integer => {
            let id = text.and_then(integer);
            (
                IdKind::Integer,
                id.ok_or_else(|| expected("an integer of at most 128 bits"))?,
            )
        }
        IdType::Integers => {
            let list = text.and_then(integers);
            let list = list.ok_or_else(|| expected("integers with commas between them"))?;
            (IdKind::Integers, ids::integers(list))
        }
        IdType::Bytes => {
            let decoded =
                hex::decode(bytes).map_err(|_| expected("pairs of hexadecimal digits"))?;
            (IdKind::Bytes, ids::bytes(&decoded))
        }
    })
}

fn integer(text: &str) -> Option<IdBytes> {
    let text = text.trim();
    let signed = text.parse::<i128>();
    let signed = signed.map(|id| ids::integer(&id.to_le_bytes(), id < 0));
    let unsigned = || {
        text.parse::<u128>()
            .map(|id| ids::integer(&id.to_le_bytes(), false))
    };
    signed.or_else(|_| unsigned()).ok()
}

fn integers(text: &str) -> Option<Vec<i128>> {
    if text.trim().is_empty() {
        return Some(Vec::new());
    }
    text.split(',').map(|it| it.trim().parse().ok()).collect()
}
