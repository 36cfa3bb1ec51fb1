//! What a body returned, taken apart and checked: the one place that looks at a forward's output before
//! it goes anywhere.

use tch::Tensor;
use torchcache_store::schema::names;

use crate::call::Stop;
use crate::error::Problem;
use crate::output::{Batched, Output, structure};
use crate::tensor::layout;

/// The tensors of what the body gave for `rows` rows, and the lengths of its vectors.
pub(crate) fn parts<O: Output>(output: O, rows: i64) -> Result<(Vec<Tensor>, Vec<u32>), Stop<O>> {
    let (mut tensors, mut lengths) = (Vec::new(), Vec::new());
    output
        .value()
        .map_err(Stop::Return)?
        .take_apart(&mut tensors, &mut lengths);
    for (place, tensor) in tensors.iter().enumerate() {
        let got = if tensor.defined() {
            tensor.size()
        } else {
            Vec::new()
        };
        if got.first() != Some(&rows) {
            let part = names(&structure::<O>(), &lengths, tensors.len()).swap_remove(place);
            return Err(Problem::OutputRows { part, got, rows }.into());
        }
        if layout::records_gradients(tensor) {
            return Err(Problem::OutputRequiresGrad.into());
        }
    }
    Ok((tensors, lengths))
}
