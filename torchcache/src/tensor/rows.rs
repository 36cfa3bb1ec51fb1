//! Rows of tensors, by their numbers.

use tch::{Device, Kind, TchError, Tensor};

use super::{raw, staging};
use crate::device;

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

/// The first of consecutive numbers; `None` where they are not.
fn first_of_range(numbers: &[i64]) -> Option<i64> {
    let first = numbers.first().copied();
    first.filter(|&first| numbers.iter().zip(first..).all(|(&row, at)| row == at))
}

impl<'n> RowNumbers<'n> {
    pub(crate) fn new(numbers: &'n [i64]) -> Self {
        RowNumbers {
            numbers,
            first: first_of_range(numbers),
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

    fn index(&mut self, device: Device) -> Result<&Tensor, TchError> {
        let known = |index: &Tensor| index.device() == device;
        let at = match self.indices.iter().position(known) {
            Some(at) => at,
            None => {
                self.indices.push(staging::numbers(self.numbers, device)?);
                self.indices.len() - 1
            }
        };
        Ok(&self.indices[at])
    }
}

/// Copies of rows between tensors of bytes, `[rows, row_bytes]`, all on one device and with rows of one length.
#[derive(Debug, Default)]
pub(crate) struct RowCopies(Vec<RowCopy>);

#[derive(Debug)]
struct RowCopy {
    count: i64,
    from: Tensor,
    rows: RowPlaces<Vec<i64>>,
    to: Tensor,
    places: RowPlaces<Vec<i64>>,
}

/// Rows of a tensor.
#[derive(Debug)]
enum RowPlaces<I> {
    /// Consecutive ones, by the first one.
    From(i64),
    At(I),
}

impl RowPlaces<Vec<i64>> {
    fn new(numbers: Vec<i64>) -> Self {
        first_of_range(&numbers).map_or(RowPlaces::At(numbers), RowPlaces::From)
    }

    /// The number of a row.
    fn number(&self, place: usize) -> i64 {
        match self {
            RowPlaces::From(first) => first + place as i64,
            RowPlaces::At(numbers) => numbers[place],
        }
    }

    /// The numbers of rows that are not consecutive.
    fn numbers(&self) -> &[i64] {
        match self {
            RowPlaces::From(_) => &[],
            RowPlaces::At(numbers) => numbers,
        }
    }
}

impl RowCopies {
    /// Adds copies of rows of one tensor to places in another one. No two are to one place.
    pub(crate) fn add(
        &mut self,
        (from, rows): (&Tensor, Vec<i64>),
        (to, places): (&Tensor, Vec<i64>),
    ) {
        debug_assert_eq!(rows.len(), places.len());
        if !rows.is_empty() {
            self.0.push(RowCopy {
                count: rows.len() as i64,
                from: from.shallow_clone(),
                rows: RowPlaces::new(rows),
                to: to.shallow_clone(),
                places: RowPlaces::new(places),
            });
        }
    }

    /// Queues the copies on the current stream.
    ///
    /// # Errors
    ///
    /// Errors of libtorch, such as memory that cannot be allocated.
    pub(crate) fn queue(self) -> Result<(), TchError> {
        self.queue_by(|work| work())
    }

    /// Queues the copies on the current stream, inside of `order`, which may lock. Where the device has kernels of this
    /// crate, one launch makes all copies. Else the numbers of all rows are one copy to the device, made outside of
    /// `order`, and none where they are ranges.
    ///
    /// # Errors
    ///
    /// Errors of libtorch, such as memory that cannot be allocated, and those of `order`.
    pub(crate) fn queue_by(
        self,
        order: impl Fn(&mut dyn FnMut() -> Result<(), TchError>) -> Result<(), TchError>,
    ) -> Result<(), TchError> {
        let Some(first) = self.0.first() else {
            return Ok(());
        };
        let copies = self.0.iter();
        let numbers = copies.flat_map(|copy| [copy.rows.numbers(), copy.places.numbers()]);
        let numbers: Vec<i64> = numbers.flatten().copied().collect();
        if !numbers.is_empty() {
            let mut is_launched = false;
            order(&mut || {
                is_launched = self.launch().is_some();
                Ok(())
            })?;
            if is_launched {
                return Ok(());
            }
        }
        let index = staging::numbers(&numbers, first.to.device())?;
        order(&mut || self.queue_with(&index))
    }

    /// Queues the copies by libtorch. `index` has the numbers of rows that are no ranges, on the device.
    fn queue_with(&self, index: &Tensor) -> Result<(), TchError> {
        let mut begin = 0;
        let mut part_of_index = |rows: &RowPlaces<Vec<i64>>| match rows {
            RowPlaces::From(first) => Ok(RowPlaces::From(*first)),
            RowPlaces::At(numbers) => {
                let count = numbers.len() as i64;
                begin += count;
                index.f_narrow(0, begin - count, count).map(RowPlaces::At)
            }
        };
        for copy in &self.0 {
            let (from, mut to) = in_words(copy.from.shallow_clone(), copy.to.shallow_clone());
            let (rows, places) = (part_of_index(&copy.rows)?, part_of_index(&copy.places)?);
            match (rows, places) {
                (RowPlaces::From(row), RowPlaces::From(place)) => {
                    let mut to = to.f_narrow(0, place, copy.count)?;
                    to.f_copy_(&from.f_narrow(0, row, copy.count)?)?;
                }
                (RowPlaces::At(rows), RowPlaces::From(place)) => {
                    let to = to.f_narrow(0, place, copy.count)?;
                    let _ = from.f_index_select_out(&to, 0, &rows)?;
                }
                (RowPlaces::From(row), RowPlaces::At(places)) => {
                    let from = from.f_narrow(0, row, copy.count)?;
                    let _ = to.f_index_copy_(0, &places, &from)?;
                }
                (RowPlaces::At(rows), RowPlaces::At(places)) => {
                    let from = from.f_index_select(0, &rows)?;
                    let _ = to.f_index_copy_(0, &places, &from)?;
                }
            }
        }
        Ok(())
    }

    /// Queues the copies as one launch of a kernel. `None` where nothing was queued.
    fn launch(&self) -> Option<()> {
        let Device::Cuda(device) = self.0.first()?.to.device() else {
            return None;
        };
        device::copy_rows(device, || {
            let mut moves = Vec::new();
            for copy in &self.0 {
                let from = raw::device_rows(&copy.from)?;
                let to = raw::device_rows(&copy.to)?;
                for place in 0..copy.count as usize {
                    let (row, place) = (copy.rows.number(place), copy.places.number(place));
                    moves.push((from.row(row as u64), to.row(place as u64)));
                }
            }
            Some(moves)
        })
    }
}

/// Two tensors of bytes as such of the longest words that both consist of: libtorch copies rows element by element.
fn in_words(from: Tensor, to: Tensor) -> (Tensor, Tensor) {
    if !matches!(to.device(), Device::Cpu | Device::Cuda(_)) {
        // Some do not have all these kinds.
        return (from, to);
    }
    for kind in [Kind::ComplexDouble, Kind::Int64, Kind::Int] {
        let size = kind.elt_size_in_bytes();
        let has_words = |tensor: &Tensor| {
            let address = tensor.data_ptr() as usize;
            address.is_multiple_of(size) && (tensor.size()[1] as usize).is_multiple_of(size)
        };
        if has_words(&from)
            && has_words(&to)
            && let (Ok(from), Ok(to)) = (from.f_view_dtype(kind), to.f_view_dtype(kind))
        {
            return (from, to);
        }
    }
    (from, to)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: [&[i64]; 8] = [
        &[1, 2],
        &[2, 1],
        &[3],
        &[0, 1, 2, 3],
        &[0, 2],
        &[1, 1],
        &[0, 0, 2],
        &[],
    ];

    #[test]
    fn ranges_and_other_rows_are_copied() {
        let table = Tensor::arange(12, (Kind::Int64, Device::Cpu));
        for rows in ROWS {
            let index = Tensor::from_slice(rows);
            let mut numbers = RowNumbers::new(rows);
            for table in [table.view([4, 3]), table.view([3, 4]).tr()] {
                let expected = table.index_select(0, &index);
                let mut copy = numbers.copy(&table).unwrap();
                assert!(copy.equal(&expected) && copy.is_contiguous(), "{rows:?}");
                let _ = copy.f_fill_(-1).unwrap();
                assert!(numbers.read(&table).unwrap().equal(&expected), "{rows:?}");
            }
        }
    }

    /// Rows of each number of bytes up to two words, in one operation for two tensors.
    #[test]
    fn rows_are_copied_to_any_places() {
        for row_bytes in 0..=33i64 {
            let table = Tensor::arange(4 * row_bytes, (Kind::Uint8, Device::Cpu));
            let table = table.view([4, row_bytes]);
            for rows in ROWS {
                for places in [[4, 5, 6, 7], [7, 3, 1, 5]] {
                    let places = &places[..rows.len()];
                    let to = Tensor::full([9, row_bytes], 255, (Kind::Uint8, Device::Cpu));
                    let expected = to.copy();
                    let mut copies = RowCopies::default();
                    // Within another tensor, where words may not be aligned.
                    let from = table.narrow(0, 1, 3);
                    copies.add((&from, vec![2, 0]), (&to, vec![8, 0]));
                    copies.add((&table, rows.to_vec()), (&to, places.to_vec()));
                    copies.queue().unwrap();
                    let all = [(1, 0), (3, 8)];
                    let all = all
                        .into_iter()
                        .chain(rows.iter().copied().zip(places.iter().copied()));
                    for (row, place) in all {
                        expected.get(place).copy_(&table.get(row));
                    }
                    assert!(
                        to.equal(&expected),
                        "{row_bytes} bytes, {rows:?} to {places:?}"
                    );
                }
            }
        }
    }
}
