//! [`OutputShapes`]: whether the rows of an output have one shape where keys leave out shapes of the input, as those of
//! rows with padding do.

use std::num::NonZero;
use std::sync::Mutex;

use lru::LruCache;

use crate::argument::RowShapes;
use crate::key::Key;
use crate::schema::TensorSchema;
use crate::sync::lock;

/// What forwards showed, by the prefix of their keys: a plain argument may decide what has which shape.
#[derive(Debug)]
pub(crate) struct OutputShapes(Mutex<LruCache<Key, KnownOutput>>);

/// Of how many prefixes it is kept, and how many shapes of the input for each. What was forgotten is tried again.
const MAX_KNOWN: NonZero<usize> = NonZero::new(64).unwrap();

/// The rows of an output.
#[derive(Debug)]
struct KnownOutput {
    schema: TensorSchema,
    /// Some have another one.
    varies: bool,
    /// Shapes of the input for which they have this one, none between two others.
    inputs: Vec<RowShapes>,
    /// The body was tried on a second shape, and failed.
    failed_on_second: bool,
}

impl OutputShapes {
    pub(crate) fn new() -> Self {
        OutputShapes(Mutex::new(LruCache::new(MAX_KNOWN)))
    }

    /// A forward returned rows of `schema` for an input of these shapes; `false` where others are of another schema.
    pub(crate) fn note(&self, prefix: &Key, input: RowShapes, schema: &TensorSchema) -> bool {
        let mut known = lock(&self.0);
        let output = known.get_or_insert_mut(*prefix, || KnownOutput::with_schema(schema));
        output.varies |= !output.schema.agrees(schema);
        if !output.has_between(&input) {
            if output.inputs.len() == MAX_KNOWN.get() {
                output.inputs.remove(0);
            }
            output.inputs.push(input);
        }
        !output.varies
    }

    /// Some rows are not of `schema`.
    pub(crate) fn note_varying(&self, prefix: &Key, schema: &TensorSchema) {
        let mut known = lock(&self.0);
        let output = known.get_or_insert_mut(*prefix, || KnownOutput::with_schema(schema));
        output.varies = true;
    }

    /// The body failed on a shape that was not the batch's own.
    pub(crate) fn note_failure(&self, prefix: &Key) {
        if let Some(output) = lock(&self.0).get_mut(prefix) {
            output.failed_on_second = true;
        }
    }

    /// Whether rows are known to be of different schemas.
    pub(crate) fn varies(&self, prefix: &Key) -> bool {
        lock(&self.0)
            .get(prefix)
            .is_some_and(|output| output.varies)
    }

    /// The schema of all rows that forwards returned, if it is known.
    pub(crate) fn schema(&self, prefix: &Key) -> Option<TensorSchema> {
        let mut known = lock(&self.0);
        let output = known.get(prefix).filter(|output| !output.varies)?;
        Some(output.schema.clone())
    }

    /// Whether the rows of an input of these shapes are known to be of a schema, that of rows `found` if there are any.
    /// Where smaller and larger ones have it, so has this one: extents of the output grow with those of the input if
    /// they follow them.
    pub(crate) fn is_known(
        &self,
        prefix: &Key,
        input: &RowShapes,
        found: Option<&TensorSchema>,
    ) -> bool {
        let mut known = lock(&self.0);
        known.get(prefix).is_some_and(|output| {
            found.is_none_or(|found| output.schema.agrees(found)) && output.has_between(input)
        })
    }

    /// Whether the body should be tried on a second shape.
    pub(crate) fn lacks_second(&self, prefix: &Key) -> bool {
        let mut known = lock(&self.0);
        let output = known.get(prefix);
        output.is_some_and(|output| output.inputs.len() < 2 && !output.failed_on_second)
    }
}

impl KnownOutput {
    /// Rows of a schema, of which nothing else is known.
    fn with_schema(schema: &TensorSchema) -> Self {
        KnownOutput {
            schema: schema.clone(),
            varies: false,
            inputs: Vec::new(),
            failed_on_second: false,
        }
    }

    fn has_between(&self, input: &RowShapes) -> bool {
        let mut inputs = self.inputs.iter();
        inputs.clone().any(|other| is_within(other, input))
            && inputs.any(|other| is_within(input, other))
    }
}

/// Whether no extent of `small` is larger than that of `large`.
fn is_within(small: &RowShapes, large: &RowShapes) -> bool {
    let mut shapes = small.iter().zip(large);
    shapes.all(|(small, large)| {
        let mut extents = small.iter().zip(large);
        small.len() == large.len() && extents.all(|(small, large)| small <= large)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::CallDevices;
    use tch::Tensor;

    fn schema(length: i64) -> TensorSchema {
        let output = Tensor::zeros([1, length], tch::kind::FLOAT_CPU);
        TensorSchema::from_outputs("T", &[output], Vec::new(), None, &CallDevices::CPU).unwrap()
    }

    #[test]
    fn an_output_is_known_between_inputs_of_one_schema() {
        let (shapes, prefix) = (OutputShapes::new(), [7; 32]);
        let is_known = |length| shapes.is_known(&prefix, &vec![vec![length]], None);
        assert!(shapes.note(&prefix, vec![vec![5]], &schema(3)));
        assert!(is_known(5) && !is_known(4) && !is_known(6) && shapes.lacks_second(&prefix));
        assert!(shapes.note(&prefix, vec![vec![9]], &schema(3)));
        assert!((5..=9).all(is_known) && !is_known(10) && !shapes.lacks_second(&prefix));
        assert!(
            !shapes.is_known(&[8; 32], &vec![vec![5]], None),
            "another prefix"
        );
        assert!(
            !shapes.is_known(&prefix, &vec![vec![5, 5]], None),
            "another rank"
        );
        let is_of = |found| shapes.is_known(&prefix, &vec![vec![7]], Some(&found));
        assert!(
            is_of(schema(3)) && !is_of(schema(4)),
            "rows that were found"
        );
        assert!(!shapes.note(&prefix, vec![vec![7]], &schema(4)) && shapes.varies(&prefix));
    }

    #[test]
    fn every_extent_is_between_those_known() {
        let (shapes, prefix) = (OutputShapes::new(), [7; 32]);
        for input in [[3, 8], [8, 3]] {
            assert!(shapes.note(&prefix, vec![input.to_vec()], &schema(3)));
        }
        let is_known = |input: [i64; 2]| shapes.is_known(&prefix, &vec![input.to_vec()], None);
        assert!(is_known([3, 8]) && is_known([8, 3]));
        assert!(!is_known([5, 5]), "neither is smaller");
        assert!(shapes.note(&prefix, vec![vec![3, 3]], &schema(3)));
        assert!(is_known([3, 5]) && is_known([5, 3]) && !is_known([5, 5]));
    }

    #[test]
    fn as_many_are_kept_as_the_bound_says() {
        let shapes = OutputShapes::new();
        for number in 0..=MAX_KNOWN.get() as u8 {
            shapes.note(&[number; 32], vec![vec![5]], &schema(3));
            shapes.note_varying(&[0; 32], &schema(3));
        }
        assert!(shapes.varies(&[0; 32]), "it is the most recent one");
        assert_eq!(lock(&shapes.0).len(), MAX_KNOWN.get());
    }
}
