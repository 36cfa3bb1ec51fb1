//! Texts to token ids. Each batch is padded to its longest text.

use std::path::Path;

use anyhow::{Context, Error, Result, ensure};
use tch::Tensor;
use tokenizers::{Tokenizer, TruncationParams};

/// Longer texts are cut, as in sentence-transformers' settings for this model.
const MAX_LENGTH: usize = 256;

/// The id of the token that ends shorter texts.
pub(crate) const PADDING: i64 = 0;

/// The ids of a text.
pub(crate) type Row = Vec<i64>;

/// Rows padded to one length.
#[derive(Debug)]
pub(crate) struct Batch {
    /// The numbers of its texts.
    pub(crate) places: Tensor,
    /// `[B, L]`.
    pub(crate) ids: Tensor,
    /// `[B, L]`, 1 for a token and 0 for padding.
    pub(crate) mask: Tensor,
}

impl Batch {
    /// The rows of these numbers, padded to the longest of them, or to a length.
    pub(crate) fn new(rows: &[Row], places: &[usize], length: Option<usize>) -> Self {
        let longest = places.iter().map(|&place| rows[place].len()).max();
        let length = length.or(longest).unwrap_or_default();
        let (mut ids, mut mask) = (Vec::new(), Vec::new());
        for row in places.iter().map(|&place| &rows[place]) {
            let padding = length - row.len();
            ids.extend(row.iter().copied().chain(vec![PADDING; padding]));
            mask.extend([vec![1i64; row.len()], vec![0; padding]].concat());
        }
        let shape = [places.len() as i64, length as i64];
        let numbers: Vec<_> = places.iter().map(|&place| place as i64).collect();
        Batch {
            places: Tensor::from_slice(&numbers),
            ids: Tensor::from_slice(&ids).view(shape),
            mask: Tensor::from_slice(&mask).view(shape),
        }
    }
}

/// The tokenizer of a model.
#[derive(Debug)]
pub(crate) struct Tokens {
    tokenizer: Tokenizer,
}

impl Tokens {
    /// # Errors
    ///
    /// The file cannot be read, or its `[PAD]` has another id.
    pub(crate) fn load(file: &Path) -> Result<Self> {
        let mut tokenizer = Tokenizer::from_file(file)
            .map_err(Error::from_boxed)
            .with_context(|| file.display().to_string())?;
        let truncation = TruncationParams {
            max_length: MAX_LENGTH,
            ..Default::default()
        };
        tokenizer
            .with_truncation(Some(truncation))
            .map_err(Error::from_boxed)?;
        // The file may ask for one length for all.
        tokenizer.with_padding(None);
        let padding = tokenizer.token_to_id("[PAD]").map(i64::from);
        ensure!(
            padding == Some(PADDING),
            "{}: the id of [PAD] is {padding:?}; expected {PADDING}",
            file.display()
        );
        Ok(Tokens { tokenizer })
    }

    /// # Errors
    ///
    /// The tokenizer fails.
    pub(crate) fn rows(&self, texts: &[&str]) -> Result<Vec<Row>> {
        let encodings = self.tokenizer.encode_batch_fast(texts.to_vec(), true);
        let encodings = encodings.map_err(Error::from_boxed)?;
        let ids = encodings.iter().map(|encoding| encoding.get_ids());
        Ok(ids
            .map(|ids| ids.iter().copied().map(i64::from).collect())
            .collect())
    }
}

/// Batches of at most `size` rows, of similar lengths, so that they have little padding.
pub(crate) fn batches(rows: &[Row], size: usize) -> Vec<Batch> {
    let mut places: Vec<usize> = (0..rows.len()).collect();
    places.sort_by_key(|&place| rows[place].len());
    let batches = places.chunks(size);
    batches
        .map(|places| Batch::new(rows, places, None))
        .collect()
}
