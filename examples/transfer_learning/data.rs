//! Images and labels in MNIST's format (IDX), gzipped or not.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use flate2::read::GzDecoder;
use tch::Tensor;

/// No MNIST-like file is larger.
const MAX_BYTES: usize = 1 << 30;

/// A training and a test set.
pub(crate) struct Data {
    pub(crate) train: Images,
    pub(crate) test: Images,
}

/// Grey images with their labels.
pub(crate) struct Images {
    /// `[N, 1, H, W]`, bytes.
    pub(crate) pixels: Tensor,
    /// `[N]`, 0 to 9.
    pub(crate) labels: Tensor,
}

impl Data {
    /// Loads both sets from `directory`; with a limit, that many images for training and a quarter as many
    /// for testing.
    ///
    /// # Errors
    ///
    /// A file is missing, is no IDX file, or does not match the other one.
    pub(crate) fn load(directory: &Path, limit: Option<i64>) -> Result<Self> {
        Ok(Data {
            train: Images::load(directory, "train", limit)?,
            test: Images::load(directory, "t10k", limit.map(|limit| limit / 4))?,
        })
    }
}

impl Images {
    fn load(directory: &Path, set: &str, limit: Option<i64>) -> Result<Self> {
        let (shape, pixels) = read(directory, &format!("{set}-images-idx3-ubyte"))?;
        let (_, labels) = read(directory, &format!("{set}-labels-idx1-ubyte"))?;
        let [count, height, width] = shape[..] else {
            bail!("the {set} images have shape {shape:?}; expected [count, height, width]");
        };
        ensure!(
            labels.len() as i64 == count && labels.iter().all(|label| *label <= 9),
            "{count} {set} images, but {} labels; expected as many, each 0 to 9",
            labels.len()
        );
        let count = limit.map_or(count, |limit| limit.min(count));
        Ok(Images {
            pixels: Tensor::from_slice(&pixels)
                .view([-1, 1, height, width])
                .narrow(0, 0, count),
            labels: Tensor::from_slice(&labels)
                .to_kind(tch::Kind::Int64)
                .narrow(0, 0, count),
        })
    }

    pub(crate) fn len(&self) -> i64 {
        self.labels.size()[0]
    }
}

/// The shape and the bytes of an IDX file.
fn read(directory: &Path, name: &str) -> Result<(Vec<i64>, Vec<u8>)> {
    let path = directory.join(name);
    let zipped = directory.join(format!("{name}.gz"));
    let mut file: Box<dyn Read> = match File::open(&path) {
        Ok(file) => Box::new(file),
        Err(_) => Box::new(GzDecoder::new(File::open(&zipped).with_context(|| {
            format!("cannot read {} or {}", path.display(), zipped.display())
        })?)),
    };
    let mut bytes = Vec::new();
    file.by_ref()
        .take(MAX_BYTES as u64)
        .read_to_end(&mut bytes)
        .with_context(|| format!("cannot read {name} in {}", directory.display()))?;
    parse(&bytes).with_context(|| {
        format!(
            "{name} in {} is no IDX file of unsigned bytes",
            directory.display()
        )
    })
}

/// Two zeros, 8 for unsigned bytes, the number of dimensions, each dimension as four bytes, data.
fn parse(bytes: &[u8]) -> Option<(Vec<i64>, Vec<u8>)> {
    let [0, 0, 8, dimensions, rest @ ..] = bytes else {
        return None;
    };
    let (header, data) = rest.split_at_checked(4 * usize::from(*dimensions))?;
    let shape: Vec<i64> = header
        .chunks_exact(4)
        .map(|extent| i64::from(u32::from_be_bytes(extent.try_into().expect("four bytes"))))
        .collect();
    let elements = shape
        .iter()
        .try_fold(1i64, |all, extent| all.checked_mul(*extent))?;
    (elements == data.len() as i64).then(|| (shape, data.to_vec()))
}
