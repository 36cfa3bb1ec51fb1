//! What a body returned, taken apart and checked: the one place that looks at a forward's output before
//! it goes anywhere.

use tch::Tensor;
use torchcache_store::schema::{ElementKind, Part, Schema};

use crate::call::Stop;
use crate::error::Problem;
use crate::output::{Batched, Output, structure};
use crate::plain;

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
            let part = name(structure::<O>(), tensors.len(), &lengths, place);
            return Err(Problem::OutputRows { part, got, rows }.into());
        }
        if plain::records_gradients(tensor) {
            return Err(Problem::OutputRequiresGrad.into());
        }
    }
    Ok((tensors, lengths))
}

/// What one of so many parts is called: `output`, or by the fields on the way to it.
fn name(structure: String, parts: usize, lengths: &[u32], place: usize) -> String {
    let part = Part {
        stored: ElementKind::Float,
        output: ElementKind::Float,
        place: 0,
        shape: Vec::new(),
    };
    let schema = Schema {
        structure,
        parts: vec![part; parts],
        lengths: lengths.to_vec(),
    };
    schema.names().swap_remove(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_called_by_its_fields() {
        let named = |structure: &str, place| name(structure.into(), 3, &[2], place);
        assert_eq!(named("{a:T,b:[T]}", 0), "a");
        assert_eq!(named("{a:T,b:[T]}", 2), "b.1");
        assert_eq!(name("T".into(), 1, &[], 0), "output");
    }
}
