//! Loads a safetensors file into a `VarStore`: every variable is filled, and nothing is converted,
//! broadcast or left out silently.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use tch::{Tensor, nn};

/// Tensors in files of BERT that sentence embeddings do not use: a layer for another task, and the
/// numbers from 0.
const UNUSED: [&str; 3] = [
    "pooler.dense.weight",
    "pooler.dense.bias",
    "embeddings.position_ids",
];

/// Fills the variables of `vs` from the tensors of the same names.
///
/// # Errors
///
/// The file cannot be read, or a variable or tensor does not fit.
pub(crate) fn load(vs: &nn::VarStore, file: &Path) -> Result<()> {
    let mut tensors: BTreeMap<_, _> = Tensor::read_safetensors(file)?.into_iter().collect();
    let mut wrong = Vec::new();
    // Sorted, so that the message is the same each time.
    let variables: BTreeMap<_, _> = vs.variables().into_iter().collect();
    for (name, mut variable) in variables {
        let Some(tensor) = tensors.remove(&name) else {
            wrong.push(format!("no {name} in it"));
            continue;
        };
        let (got, expected) = (describe(&tensor), describe(&variable));
        if got == expected {
            tch::no_grad(|| variable.f_copy_(&tensor))
                .with_context(|| format!("{}: {name}", file.display()))?;
        } else {
            wrong.push(format!("{name} is {got}; expected {expected}"));
        }
    }
    tensors.retain(|name, _| !UNUSED.contains(&name.as_str()));
    let unknown = tensors.keys();
    wrong.extend(unknown.map(|name| format!("the model has no {name}")));
    match wrong.split_first() {
        None => Ok(()),
        Some((first, [])) => bail!("{}: {first}", file.display()),
        Some((first, more)) => bail!(
            "{}: {first} (and {} more that do not fit)",
            file.display(),
            more.len()
        ),
    }
}

/// Kind and shape: `Float [384, 384]`.
fn describe(tensor: &Tensor) -> String {
    format!("{:?} {:?}", tensor.kind(), tensor.size())
}
