//! How often texts are found again that have another padding in every batch: for the table in the guide.

use std::time::Instant;

use anyhow::Result;
use tch::Tensor;
use torchcache::{TorchCache, torchcache};
use torchcache_examples::seconds;

use crate::args::Args;
use crate::bert::Bert;
use crate::corpus;
use crate::encoder::{self, embed};
use crate::passes;
use crate::tokens::{Batch, PADDING, Row, Tokens};

/// One forward, with the marks that its arguments may have.
#[torchcache(version = "1")]
#[derive(Debug)]
struct Marked {
    bert: Bert,
    torchcache: TorchCache,
}

#[torchcache]
impl Marked {
    #[torchcache]
    fn plain(&self, ids: &Tensor, mask: &Tensor) -> Tensor {
        embed(&self.bert, ids, mask)
    }

    #[torchcache]
    fn by_id(&self, ids: &Tensor, mask: &Tensor, #[id] _places: &Tensor) -> Tensor {
        embed(&self.bert, ids, mask)
    }

    #[torchcache]
    fn by_id_any_shape(
        &self,
        ids: &Tensor,
        mask: &Tensor,
        #[id(any_shape)] _places: &Tensor,
    ) -> Tensor {
        embed(&self.bert, ids, mask)
    }

    #[torchcache]
    fn padded(&self, #[padded(PADDING)] ids: &Tensor, #[padded(0)] mask: &Tensor) -> Tensor {
        embed(&self.bert, ids, mask)
    }
}

const TEXTS: usize = 1024;
const EPOCHS: i64 = 4;

/// Embeds texts in several epochs, each shuffled, and prints the hits and the times.
///
/// # Errors
///
/// There is no model, or one of its files is not valid.
pub(crate) fn print_table(args: &Args) -> Result<()> {
    let entries = corpus::entries()?;
    let tokens = Tokens::load(&args.model.join("tokenizer.json"))?;
    let rows = tokens.rows(&passes::texts(&entries[..TEXTS]))?;
    let longest = rows.iter().map(Vec::len).max();
    let marked = Marked {
        bert: encoder::load(&args.model)?,
        torchcache: TorchCache::default(),
    };
    type Forward<'a> = &'a dyn Fn(&Batch) -> Tensor;
    let ways: [(&str, Option<usize>, Forward<'_>); 5] = [
        ("no mark", None, &|batch| {
            marked.plain(&batch.ids, &batch.mask)
        }),
        ("`#[id]`", None, &|batch| {
            marked.by_id(&batch.ids, &batch.mask, &batch.places)
        }),
        ("`#[id(any_shape)]`", None, &|batch| {
            marked.by_id_any_shape(&batch.ids, &batch.mask, &batch.places)
        }),
        ("`#[padded(0)]`", None, &|batch| {
            marked.padded(&batch.ids, &batch.mask)
        }),
        (
            "no mark, padded to the longest of all texts",
            longest,
            &|batch| marked.plain(&batch.ids, &batch.mask),
        ),
    ];
    println!("| arguments | epoch 1 | hits in epoch 2 | 3 | 4 | epoch 4 |");
    println!("| --- | --- | --- | --- | --- | --- |");
    for (name, length, forward) in ways {
        let (mut times, mut hits) = (Vec::new(), Vec::new());
        for epoch in 0..EPOCHS {
            let before = marked.torchcache.stats();
            let start = Instant::now();
            for places in shuffled(&rows, epoch).chunks(args.batch) {
                drop(forward(&Batch::new(&rows, places, length)));
            }
            times.push(seconds(start.elapsed().as_secs_f64()));
            let stats = marked.torchcache.stats();
            let found = stats.hits() - before.hits();
            hits.push(format!("{:.1} %", found as f64 * 100.0 / TEXTS as f64));
        }
        println!(
            "| {name} | {} | {} | {} | {} | {} |",
            times[0], hits[1], hits[2], hits[3], times[3]
        );
    }
    Ok(())
}

/// The numbers of the rows in an order of this epoch.
fn shuffled(rows: &[Row], epoch: i64) -> Vec<usize> {
    tch::manual_seed(epoch);
    let order = Tensor::randperm(rows.len() as i64, tch::kind::INT64_CPU);
    let order = Vec::<i64>::try_from(order).expect("integers on the CPU");
    order.into_iter().map(|place| place as usize).collect()
}
