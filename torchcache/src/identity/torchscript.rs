//! [`Fingerprint`] for TorchScript modules. Each is hashed as the archive that `save` writes: code,
//! mode, parameters, buffers and attributes, with their kinds.

use std::path::Path;

use tch::{CModule, TchError, TrainableCModule};

use super::fingerprint::{Fingerprint, Fingerprinter};
use super::parts::unique;
use crate::tensor::parallel;

/// Its address and its parameters are watched. Mode and buffers are not: libtorch shows them only in
/// the archive, so `refresh()` reads them.
impl Fingerprint for CModule {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        if f.compares() {
            // Two loaded modules have different addresses while both live.
            let address = format!("{self:?}");
            f.plain("address", address.as_bytes(), &address);
        }
        if let Some(archive) = f.hashing(|| Archive::of_module(self)) {
            archive.fingerprint(f);
        }
        for (name, tensor) in self.named_parameters().unwrap_or_default() {
            f.field(&name, &tensor);
        }
    }
}

/// Its address is watched. Its parameters are in a `VarStore`, which must be a field as well.
impl Fingerprint for TrainableCModule {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        if f.compares() {
            let address = format!("{self:?}");
            f.plain("address", address.as_bytes(), &address);
        }
        f.needs_variables();
        trainable(self, f);
    }
}

/// Hashes a trainable module. Its parameters are watched through the `VarStore` that holds them.
pub(crate) fn trainable(module: &TrainableCModule, f: &mut Fingerprinter<'_>) {
    if let Some(archive) = f.hashing(|| Archive::of_trainable(module)) {
        archive.fingerprint(f);
    }
}

/// What the archive of a module says about it.
#[derive(Debug, Clone)]
pub(crate) struct Archive {
    digest: [u8; 32],
    readable: String,
    in_train_mode: bool,
}

impl Archive {
    pub(crate) fn of_module(module: &CModule) -> Self {
        Archive::read(|path| module.save(path))
    }

    pub(crate) fn of_trainable(module: &TrainableCModule) -> Self {
        Archive::read(|path| module.save(path))
    }

    fn read(save: impl FnOnce(&Path) -> Result<(), TchError>) -> Self {
        match saved(save) {
            Ok(bytes) => Archive::of_file(&bytes),
            // A module that cannot be read must equal no other.
            Err(reason) => Archive {
                digest: unique(),
                readable: format!("not saved: {reason}"),
                in_train_mode: false,
            },
        }
    }

    fn of_file(bytes: &[u8]) -> Self {
        let (digest, in_train_mode) = match zip_files(bytes) {
            Some(files) => digest_files(&files),
            // Above 4 GB.
            None => {
                let mut hasher = blake3::Hasher::new();
                parallel::update(&mut hasher, bytes);
                (*hasher.finalize().as_bytes(), false)
            }
        };
        let mode = if in_train_mode { ", in train mode" } else { "" };
        Archive {
            digest,
            readable: format!("TorchScript of {} bytes{mode}", bytes.len()),
            in_train_mode,
        }
    }

    /// Adds it to the hash.
    pub(crate) fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        f.content("TorchScript", &[], || {
            (self.digest.to_vec(), self.readable.clone())
        });
        if self.in_train_mode {
            f.in_train_mode();
        }
    }
}

fn saved(save: impl FnOnce(&Path) -> Result<(), TchError>) -> Result<Vec<u8>, String> {
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    // The archive contains the name of its file, which must be the same every time.
    let path = directory.path().join("module.pt");
    save(&path).map_err(|error| error.to_string())?;
    std::fs::read(&path).map_err(|error| error.to_string())
}

/// The digest of the files in an archive, and whether a module in it is in train mode.
fn digest_files(files: &[(&[u8], &[u8])]) -> ([u8; 32], bool) {
    let mut hasher = blake3::Hasher::new();
    let mut in_train_mode = false;
    for (name, content) in files {
        if name.ends_with(b"/.data/serialization_id") {
            // A hash of the other files.
            continue;
        }
        let pickled = name.ends_with(b".pkl").then(|| pickle::parse(content));
        let pickled = pickled.flatten();
        let canonical = pickled.as_deref().map(pickle::canonical);
        in_train_mode |=
            pickled.is_some_and(|operations| pickle::has_true(&operations, "training"));
        for piece in [name, canonical.as_deref().unwrap_or(content)] {
            hasher.update(&(piece.len() as u64).to_le_bytes());
            parallel::update(&mut hasher, piece);
        }
    }
    (*hasher.finalize().as_bytes(), in_train_mode)
}

/// The names and bytes of the files in a zip archive below 4 GB. Compressed ones stay so.
fn zip_files(archive: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    let number = |at: usize, bytes: usize| {
        let field = archive.get(at..at.checked_add(bytes)?)?;
        let number = field
            .iter()
            .rev()
            .fold(0, |high, &byte| high << 8 | usize::from(byte));
        Some(number)
    };
    let last = archive.len().checked_sub(22)?;
    let ends = (0..=last).rev().take(1 << 16);
    let end = { ends }.find(|&at| archive[at..].starts_with(b"PK\x05\x06"))?;
    let (count, mut at) = (number(end + 10, 2)?, number(end + 16, 4)?);
    let mut files = Vec::with_capacity(count);
    for _ in 0..count {
        if !archive.get(at..)?.starts_with(b"PK\x01\x02") {
            return None;
        }
        let (size, header) = (number(at + 20, 4)?, number(at + 42, 4)?);
        let name = archive.get(at + 46..at + 46 + number(at + 28, 2)?)?;
        let start = header + 30 + number(header + 26, 2)? + number(header + 28, 2)?;
        files.push((name, archive.get(start..start + size)?));
        at += 46 + number(at + 28, 2)? + number(at + 30, 2)? + number(at + 32, 2)?;
    }
    Some(files)
}

/// The pickles that libtorch writes. It memoizes a tensor if the program holds another handle to it, so
/// that equal modules have pickles of different bytes.
mod pickle {
    use std::collections::{BTreeMap, BTreeSet};

    /// An operation and its operand.
    #[derive(Debug, PartialEq)]
    pub(super) enum Operation<'a> {
        Put(u32),
        Get(u32),
        Other(u8, &'a [u8]),
    }

    const BINUNICODE: u8 = b'X';
    const NEWTRUE: u8 = 0x88;

    /// The operations of a pickle; `None` where it is damaged or has one that libtorch does not write.
    pub(super) fn parse(mut pickle: &[u8]) -> Option<Vec<Operation<'_>>> {
        let mut operations = Vec::new();
        while let [code, rest @ ..] = pickle {
            let length = |bytes: usize| {
                let length = rest.get(..bytes)?.iter().rev();
                Some(bytes + length.fold(0, |high, &byte| high << 8 | usize::from(byte)))
            };
            let line = |from: usize| {
                let end = rest.get(from..)?.iter().position(|&byte| byte == b'\n')?;
                Some(from + end + 1)
            };
            let size = match code {
                b')' | 0x81 | b'}' | b'(' | 0x88 | 0x89 | b'N' | b't' | 0x85..=0x87 | b']' => 0,
                b'a' | b'e' | b'u' | b's' | b'R' | b'b' | b'Q' | b'0' | b'.' => 0,
                0x80 | b'q' | b'h' | b'K' => 1,
                b'M' => 2,
                b'r' | b'j' | b'J' => 4,
                b'G' => 8,
                0x8a => length(1)?,
                &BINUNICODE => length(4)?,
                b'c' => line(line(0)?)?,
                _ => return None,
            };
            let (operand, after) = rest.split_at_checked(size)?;
            let index = || {
                operand
                    .iter()
                    .rev()
                    .fold(0, |high, &byte| high << 8 | u32::from(byte))
            };
            operations.push(match code {
                b'q' | b'r' => Operation::Put(index()),
                b'h' | b'j' => Operation::Get(index()),
                _ => Operation::Other(*code, operand),
            });
            pickle = after;
        }
        Some(operations)
    }

    /// The pickle with only those values memoized that it uses again, in their order.
    pub(super) fn canonical(operations: &[Operation<'_>]) -> Vec<u8> {
        let got = |operation: &Operation<'_>| match operation {
            Operation::Get(index) => Some(*index),
            _ => None,
        };
        let used: BTreeSet<u32> = operations.iter().filter_map(got).collect();
        let (mut numbers, mut puts) = (BTreeMap::new(), 0u32);
        let mut bytes = Vec::new();
        for operation in operations {
            let (code, number) = match operation {
                Operation::Put(index) if used.contains(index) => {
                    numbers.insert(*index, puts);
                    puts += 1;
                    (b'r', puts - 1)
                }
                Operation::Put(_) => continue,
                Operation::Get(index) => (b'j', numbers.get(index).copied().unwrap_or(u32::MAX)),
                Operation::Other(code, operand) => {
                    bytes.push(*code);
                    bytes.extend(*operand);
                    continue;
                }
            };
            bytes.push(code);
            bytes.extend(number.to_le_bytes());
        }
        bytes
    }

    /// Whether an attribute `name` of an object is true.
    pub(super) fn has_true(operations: &[Operation<'_>], name: &str) -> bool {
        let mut memoized = None;
        let mut rest = operations;
        while let [first, after @ ..] = rest {
            rest = after;
            let value = match (first, after) {
                (Operation::Other(BINUNICODE, text), _) if text[4..] == *name.as_bytes() => {
                    match after {
                        [Operation::Put(index), value, ..] => {
                            memoized = Some(*index);
                            Some(value)
                        }
                        [value, ..] => Some(value),
                        [] => None,
                    }
                }
                (Operation::Get(index), [value, ..]) if memoized == Some(*index) => Some(value),
                _ => None,
            };
            if matches!(value, Some(Operation::Other(NEWTRUE, _))) {
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn train_mode_of_any_submodule_is_found() {
        let check = |parts: &[&[u8]]| {
            let pickled = parts.concat();
            pickle::has_true(&pickle::parse(&pickled).unwrap(), "training")
        };
        let first: &[u8] = b"X\x08\0\0\0trainingq\x05";
        let far: &[u8] = b"X\x08\0\0\0trainingr\x05\x01\0\0";
        assert!(check(&[first, b"\x88"]));
        assert!(!check(&[first, b"\x89N"]));
        assert!(!check(&[first, b"\x89h\x05\x89"]));
        assert!(check(&[first, b"\x89h\x04\x88h\x05\x88"]));
        assert!(!check(&[first, b"\x89h\x04\x88h\x05\x89"]));
        assert!(check(&[far, b"\x89j\x05\x01\0\0\x88"]));
        assert!(!check(&[far, b"\x89j\x05\x01\0\0\x89"]));
        assert!(!check(&[b"\x80\x02}."]), "a traced module");
    }

    #[test]
    fn values_that_are_memoized_but_not_used_do_not_count() {
        let canonical = |pickled: &[u8]| pickle::canonical(&pickle::parse(pickled).unwrap());
        let one = canonical(b"X\x01\0\0\0aq\0K\x01X\x01\0\0\0bq\x01h\x01.");
        let more = canonical(b"X\x01\0\0\0aK\x01q\x07X\x01\0\0\0br\x09\0\0\0h\x09.");
        assert_eq!(one, more);
        let other = canonical(b"X\x01\0\0\0aq\0K\x01X\x01\0\0\0bq\x01h\0.");
        assert_ne!(one, other, "another value is used again");
        assert_eq!(pickle::parse(b"\xff"), None);
        assert_eq!(pickle::parse(b"X\xff\0\0\0a"), None);
    }

    fn double() -> CModule {
        let mut double = |inputs: &[tch::Tensor]| vec![&inputs[0] * 2.0];
        let example = [tch::Tensor::zeros([1, 2], tch::kind::FLOAT_CPU)];
        CModule::create_by_tracing("M", "forward", &example, &mut double).unwrap()
    }

    #[test]
    fn the_files_of_a_saved_module_are_found() {
        let module = double();
        let archive = saved(|path| module.save(path)).unwrap();
        let files = zip_files(&archive).unwrap();
        let attributes = files.iter().find(|(name, _)| *name == b"module/data.pkl");
        assert!(
            attributes
                .unwrap()
                .1
                .starts_with(b"\x80\x02c__torch__\nM\n")
        );
        for (name, content) in &files {
            let is_pickled = name.ends_with(b".pkl") && !name.ends_with(b"debug_pkl");
            assert!(!is_pickled || pickle::parse(content).is_some(), "{name:?}");
        }
        for length in 0..archive.len() {
            let _ = Archive::of_file(&archive[..length]);
        }
    }
}
