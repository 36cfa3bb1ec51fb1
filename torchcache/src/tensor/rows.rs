//! Rows of tensors, by their numbers.

use tch::{Device, TchError, Tensor};

/// The numbers of rows of a tensor. Consecutive ones are a range; others are an index, which is copied to
/// each device once.
#[derive(Debug)]
pub(crate) struct RowNumbers<'n> {
    numbers: &'n [i64],
    /// The first one, if each is one more than the one before.
    first: Option<i64>,
    /// On each device that it was needed on.
    indices: Vec<Tensor>,
}

impl<'n> RowNumbers<'n> {
    pub(crate) fn new(numbers: &'n [i64]) -> Self {
        let first = numbers.first().copied();
        let is_range = |first: &i64| numbers.iter().zip(*first..).all(|(&row, at)| row == at);
        RowNumbers {
            numbers,
            first: first.filter(is_range),
            indices: Vec::new(),
        }
    }

    /// A copy of these rows.
    pub(crate) fn copy(&mut self, tensor: &Tensor) -> Result<Tensor, TchError> {
        let rows = self.read(tensor)?;
        if self.first.is_none() {
            return Ok(rows);
        }
        let mut copy = Tensor::f_empty(rows.size(), (rows.f_kind()?, rows.device()))?;
        copy.f_copy_(&rows)?;
        Ok(copy)
    }

    /// These rows, where they are if they are a range.
    pub(crate) fn read(&mut self, tensor: &Tensor) -> Result<Tensor, TchError> {
        match self.first {
            Some(first) => tensor.f_narrow(0, first, self.numbers.len() as i64),
            None => tensor.f_index_select(0, self.index(tensor.device())?),
        }
    }

    /// Overwrites these rows.
    pub(crate) fn write(&mut self, tensor: &mut Tensor, rows: &Tensor) -> Result<(), TchError> {
        match self.first {
            Some(_) => self.read(tensor)?.f_copy_(rows),
            None => {
                let index = self.index(tensor.device())?;
                tensor.f_index_copy_(0, index, rows).map(|_| ())
            }
        }
    }

    fn index(&mut self, device: Device) -> Result<&Tensor, TchError> {
        let known = |index: &Tensor| index.device() == device;
        let at = match self.indices.iter().position(known) {
            Some(at) => at,
            None => {
                let index = Tensor::from_slice(self.numbers);
                self.indices.push(index.f_to_device(device)?);
                self.indices.len() - 1
            }
        };
        Ok(&self.indices[at])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    #[test]
    fn ranges_and_other_rows_are_copied_and_written() {
        let table = || Tensor::arange(12, (Kind::Int64, Device::Cpu)).view([4, 3]);
        for rows in [
            &[1, 2][..],
            &[2, 1],
            &[3],
            &[0, 1, 2, 3],
            &[0, 2],
            &[1, 1],
            &[0, 0, 2],
            &[],
        ] {
            let index = Tensor::from_slice(rows);
            let mut numbers = RowNumbers::new(rows);
            for table in [table(), table().view([3, 4]).tr()] {
                let expected = table.index_select(0, &index);
                let mut copy = numbers.copy(&table).unwrap();
                assert!(copy.equal(&expected) && copy.is_contiguous(), "{rows:?}");
                let _ = copy.f_fill_(-1).unwrap();
                assert!(numbers.read(&table).unwrap().equal(&expected), "{rows:?}");
            }
            let (mut written, mut expected) = (table(), table());
            let new = Tensor::ones([rows.len() as i64, 3], (Kind::Int64, Device::Cpu)) * 7;
            numbers.write(&mut written, &new).unwrap();
            let _ = expected.index_copy_(0, &index, &new);
            assert!(written.equal(&expected), "{rows:?}");
        }
    }
}
