//! The texts: definitions of English words, and replacements of some of them.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use flate2::read::GzDecoder;
use tch::Tensor;

/// A word and its definition, which is embedded.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) word: String,
    pub(crate) text: String,
}

/// Reads the entries.
///
/// # Errors
///
/// The file cannot be read, or a line has no tab.
pub(crate) fn entries() -> Result<Vec<Entry>> {
    let file = data("definitions.tsv.gz");
    let mut table = String::new();
    File::open(&file)
        .and_then(|zipped| GzDecoder::new(zipped).read_to_string(&mut table))
        .with_context(|| file.display().to_string())?;
    let entry = |line: &str| {
        let (word, text) = line.split_once('\t')?;
        Some(Entry {
            word: word.to_owned(),
            text: text.to_owned(),
        })
    };
    let entries: Option<_> = table.lines().map(entry).collect();
    entries.with_context(|| format!("{}: a line has no tab", file.display()))
}

/// Entries of which some are replaced.
pub(crate) struct Edited<'a> {
    pub(crate) entries: Vec<Entry>,
    /// The replacements, in the order of their places.
    pub(crate) new: &'a [Entry],
    /// The places of replaced entries.
    pub(crate) changed: Tensor,
    /// The places of the others.
    pub(crate) kept: Tensor,
}

/// The first `count` entries with every hundredth replaced by one of those after them.
pub(crate) fn edited(entries: &[Entry], count: usize) -> Edited<'_> {
    let (first, others) = entries.split_at(count);
    let is_changed = |place: &usize| place % 100 == 99;
    let (changed, kept): (Vec<_>, Vec<_>) = (0..count).partition(is_changed);
    let new = &others[..changed.len()];
    let mut edited = first.to_vec();
    for (place, other) in changed.iter().zip(new) {
        edited[*place].clone_from(other);
    }
    let tensor = |places: Vec<usize>| {
        let places: Vec<_> = places.into_iter().map(|place| place as i64).collect();
        Tensor::from_slice(&places)
    };
    Edited {
        entries: edited,
        new,
        changed: tensor(changed),
        kept: tensor(kept),
    }
}

/// Reads the sample: texts with their embeddings by sentence-transformers.
///
/// # Errors
///
/// A file cannot be read, or the numbers of texts and embeddings differ.
pub(crate) fn sample() -> Result<(Vec<String>, Tensor)> {
    let (texts, embeddings) = (data("sample.txt"), data("sample.safetensors"));
    let text = std::fs::read_to_string(&texts).with_context(|| texts.display().to_string())?;
    let lines: Vec<_> = text.lines().map(str::to_owned).collect();
    match &Tensor::read_safetensors(&embeddings)?[..] {
        [(_, tensor)] if tensor.size()[0] == lines.len() as i64 => {
            Ok((lines, tensor.shallow_clone()))
        }
        _ => bail!(
            "{} does not have one embedding for each line of {}",
            embeddings.display(),
            texts.display()
        ),
    }
}

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("data/wordnet")
        .join(name)
}
