//! Shapes that keys leave out: of rows with padding, or with ids and any shape. A row is stored and returned only where
//! the body was seen to return it in the same shape for these.

use super::CachedCall;
use super::lookup::Lookup;
use super::outcome::{Stop, Unfit};
use crate::argument::SelectedRows;
use crate::cache::warnings::Reason;
use crate::output::Output;
use crate::schema::TensorSchema;

impl CachedCall<'_> {
    /// Notes what a forward over `rows` returned.
    pub(super) fn note_shape(
        &self,
        lookup: &Lookup,
        rows: &SelectedRows,
        schema: &TensorSchema,
    ) -> Result<(), Unfit> {
        let is_accepted = lookup.accepts(schema);
        // One row alone may have another shape than among several.
        let is_one = rows.count() == 1 && !self.method.cuts.keeps_one_row();
        let (prefix, shapes) = (self.key_prefix(), &self.method.shapes);
        if is_one || !self.arguments.leave_shapes_out() {
            if !is_one {
                shapes.note(&prefix, Vec::new(), schema);
            }
            let error = Unfit::Reason(Reason::ChangingShape);
            return is_accepted.then_some(()).ok_or(error);
        }
        if !is_accepted {
            shapes.note_varying(&prefix, schema);
        }
        let input = rows.shapes_left_out(self.arguments);
        let is_fixed = shapes.note(&prefix, input, schema);
        let error = Unfit::Reason(Reason::ShapeFollowsInput);
        is_fixed.then_some(()).ok_or(error)
    }

    /// Rejects a call if the shape of its output is known to follow one that is not part of its keys.
    pub(super) fn reject_varying<O>(&self) -> Result<(), Stop<O>> {
        let varies = || self.method.shapes.varies(&self.key_prefix());
        match self.arguments.leave_shapes_out() && varies() {
            true => Err(Reason::ShapeFollowsInput.into()),
            false => Ok(()),
        }
    }

    /// Has the body show the shape of its output on two rows, where only forwards over other shapes did: for the whole
    /// length of this batch, since cached rows may be those of other lengths. `computed`: of rows that are about to be
    /// stored, which need a second length as well, since rows whose shape follows it would be found by no other call.
    pub(super) fn check_shape<O: Output>(
        &self,
        lookup: &Lookup,
        computed: Option<&TensorSchema>,
        body: &dyn Fn(&SelectedRows) -> O,
    ) -> Result<(), Stop<O>> {
        if !self.arguments.leave_shapes_out() {
            return Ok(());
        }
        let (prefix, shapes) = (self.key_prefix(), &self.method.shapes);
        let schema = computed.or(lookup.schema().map(|found| &**found));
        let all = || SelectedRows::all(self.arguments).shapes_left_out(self.arguments);
        if !shapes.is_known(&prefix, &all(), schema) {
            match self.try_rows(lookup, [0, self.rows - 1], None, body)? {
                Ok(()) => {}
                Err(reason @ Reason::ShapeFollowsInput) => return Err(reason.into()),
                // A body may need the whole batch.
                Err(_) => {
                    let whole = self.compute_whole_batch(lookup, body)?;
                    shapes.note(&prefix, all(), &whole.schema);
                }
            }
            if !shapes.is_known(&prefix, &all(), schema) {
                schema
                    .into_iter()
                    .for_each(|schema| shapes.note_varying(&prefix, schema));
                return Err(Reason::ShapeFollowsInput.into());
            }
        }
        let length = self.arguments.padded_length();
        let length = length.filter(|_| computed.is_some() && !self.takes_whole_batches());
        if let Some(length) = length
            && shapes.lacks_second(&prefix)
            && let Some((row, length)) = self.arguments.other_length(length)?
        {
            match self.try_rows(lookup, [row; 2], Some(length), body)? {
                Ok(()) => {}
                Err(reason @ Reason::ShapeFollowsInput) => return Err(reason.into()),
                // A body may need this length: then no call has another one.
                Err(_) => shapes.note_failure(&prefix),
            }
        }
        Ok(())
    }

    /// Runs the body on two rows for the shape of its output alone; one could lose a dimension. The inner error is why it
    /// is not that of the others, or not known.
    fn try_rows<O: Output>(
        &self,
        lookup: &Lookup,
        rows: [i64; 2],
        length: Option<i64>,
        body: &dyn Fn(&SelectedRows) -> O,
    ) -> Result<Result<(), Reason>, Stop<O>> {
        let selected = SelectedRows::select(self.arguments, &rows, length)?;
        let computed = self.compute_cut(lookup, &selected, body)?;
        Ok(computed.map(|_| ()))
    }
}
