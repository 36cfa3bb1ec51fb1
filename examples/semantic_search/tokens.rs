//! Texts to token ids. A text is padded to the same length in every batch: padding is part of a row, and
//! so of its key, and padding to the longest text of a batch would cost hits.

use std::path::Path;

use anyhow::{Context, Error, Result};
use tch::Tensor;
use tokenizers::{Tokenizer, TruncationParams};

/// Texts are padded to the first length that they fit into. Longer ones are cut at the last, as in
/// sentence-transformers' settings for this model.
const LENGTHS: [usize; 5] = [16, 32, 64, 128, 256];

/// One text.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    ids: Vec<i64>,
    /// 1 for a token, 0 for padding.
    mask: Vec<i64>,
}

/// Rows of one length.
#[derive(Debug)]
pub(crate) struct Batch {
    /// The numbers of its texts.
    pub(crate) places: Tensor,
    /// `[B, L]`.
    pub(crate) ids: Tensor,
    /// `[B, L]`.
    pub(crate) mask: Tensor,
}

/// The tokenizer of a model.
#[derive(Debug)]
pub(crate) struct Tokens {
    tokenizer: Tokenizer,
    padding: i64,
}

impl Tokens {
    /// # Errors
    ///
    /// The file cannot be read, or has no `[PAD]`.
    pub(crate) fn load(file: &Path) -> Result<Self> {
        let mut tokenizer = Tokenizer::from_file(file)
            .map_err(Error::from_boxed)
            .with_context(|| file.display().to_string())?;
        let truncation = TruncationParams {
            max_length: LENGTHS[LENGTHS.len() - 1],
            ..Default::default()
        };
        tokenizer
            .with_truncation(Some(truncation))
            .map_err(Error::from_boxed)?;
        // The file may ask for one length for all.
        tokenizer.with_padding(None);
        let padding = tokenizer.token_to_id("[PAD]");
        let no_padding = || format!("{}: no [PAD] in its vocabulary", file.display());
        Ok(Tokens {
            tokenizer,
            padding: padding.with_context(no_padding)?.into(),
        })
    }

    /// # Errors
    ///
    /// The tokenizer fails.
    pub(crate) fn rows(&self, texts: &[&str]) -> Result<Vec<Row>> {
        let encodings = self.tokenizer.encode_batch_fast(texts.to_vec(), true);
        let encodings = encodings.map_err(Error::from_boxed)?;
        Ok(encodings
            .iter()
            .map(|encoding| self.row(encoding.get_ids()))
            .collect())
    }

    fn row(&self, ids: &[u32]) -> Row {
        let fits = LENGTHS.into_iter().find(|length| ids.len() <= *length);
        let length = fits.expect("the tokenizer cuts at the last");
        let mut ids: Vec<_> = ids.iter().copied().map(i64::from).collect();
        let mut mask = vec![1; ids.len()];
        ids.resize(length, self.padding);
        mask.resize(length, 0);
        Row { ids, mask }
    }
}

/// Batches of at most `size` rows of one length.
pub(crate) fn batches(rows: &[Row], size: usize) -> Vec<Batch> {
    let of_length = |length: usize| -> Vec<usize> {
        let places = 0..rows.len();
        places
            .filter(|place| rows[*place].ids.len() == length)
            .collect()
    };
    let mut batches = Vec::new();
    for length in LENGTHS {
        for places in of_length(length).chunks(size) {
            let tensor = |part: fn(&Row) -> &[i64]| {
                let values: Vec<_> = places
                    .iter()
                    .flat_map(|place| part(&rows[*place]))
                    .copied()
                    .collect();
                Tensor::from_slice(&values).view([-1, length as i64])
            };
            let numbers: Vec<_> = places.iter().map(|place| *place as i64).collect();
            batches.push(Batch {
                places: Tensor::from_slice(&numbers),
                ids: tensor(|row| &row.ids),
                mask: tensor(|row| &row.mask),
            });
        }
    }
    batches
}
