//! [`SampleIds`]: parameters marked `#[id]`. Rows are keyed by the ids that the caller gives them, and
//! their content is not hashed.

use tch::Tensor;

use super::arguments::Arguments;
use super::ids::{Ids, SampleId};
use super::rows::{Nothing, SelectedRows};

/// The ids of a batch, for a parameter that is marked `#[id]`: `&Tensor` (one dimension of integers), or
/// `&[T]` or `&Vec<T>` of [`SampleId`]s, such as `&[i64]`, `&[&str]`, `&[PathBuf]` and `&[(String, u32)]`.
///
/// Rows are then keyed by id, and their content is not hashed. So **you guarantee the ids**: an id must
/// stand for the same sample in every call, every run and every program that uses this cache, or the
/// wrong row is returned. Row numbers are not enough where there are two data sets: row 0 of the
/// training set is not row 0 of the test set. Use ids such as `("train", 0)`, or pass the name of the set as a plain
/// argument. The option `verify` finds ids that are used twice.
///
/// Integers are equal across types; ids of different kinds never are. The kinds and row shapes of tensors
/// are still part of the key, and so are plain and shared arguments: a sample at two resolutions has
/// two rows. With `#[id(any_shape)]` the row shapes are not, and the row of an id is the one that was computed first. The
/// shape of an output row must then not follow that of the input: before hits at a shape that is not between two that the
/// body ran at, it runs on two rows to find out, and where it does follow, calls bypass the cache, with a warning.
///
/// ```
/// use tch::{Kind, Tensor};
/// use torchcache::torchcache;
///
/// #[torchcache]
/// fn embed(images: &Tensor, #[id] names: &[&str]) -> Tensor {
///     assert_eq!(images.size()[0] as usize, names.len());
///     images.mean_dim(-1, true, Kind::Float)
/// }
///
/// let images = Tensor::rand([2, 1000], tch::kind::FLOAT_CPU);
/// let first = embed(&images, &["cat.png", "dog.png"]);
/// assert_eq!(embed(&images.narrow(0, 1, 1), &["dog.png"]), first.narrow(0, 1, 1));
/// assert_eq!(embed_cache().stats().memory.hits, 1);
/// ```
///
/// A function may take ids and no tensor, and load the samples itself: then only missing samples are
/// loaded.
///
/// # Ragged rows
///
/// A list of integers is an id. So rows of different lengths need no padding to be cached: the row itself is its id, and
/// every number of it is in the key.
///
/// ```
/// use tch::{Kind, Tensor};
/// use torchcache::torchcache;
///
/// #[torchcache]
/// fn embed(#[id] texts: &[Vec<i64>]) -> Tensor {
///     let embedded = texts.iter().map(|tokens| Tensor::from_slice(tokens).mean(Kind::Float));
///     Tensor::stack(&embedded.collect::<Vec<_>>(), 0)
/// }
///
/// let texts = [vec![7, 5, 3], vec![9], vec![2, 4]];
/// embed(&texts[..2]);
/// embed(&texts[1..]); // computes the last one
/// assert_eq!(embed_cache().stats().memory.hits, 1);
/// ```
///
/// # Views
///
/// Augmented images are rows of their own under tuples such as `(id, view)`: each view is computed once. The view must
/// follow from the tuple alone.
///
/// ```
/// use tch::Tensor;
/// use torchcache::torchcache;
///
/// #[torchcache]
/// fn embed(#[id] samples: &[(i64, u8)], #[skip] #[shared] images: &Tensor) -> Tensor {
///     let views = samples.iter().map(|&(id, view)| images.get(id).roll(i64::from(view), 0));
///     Tensor::stack(&views.collect::<Vec<_>>(), 0)
/// }
///
/// let images = Tensor::rand([2, 8], tch::kind::FLOAT_CPU);
/// for epoch in 0..6 {
///     embed(&[(0, epoch % 3), (1, epoch % 3)], &images);
/// }
/// let stats = embed_cache().stats();
/// assert_eq!((stats.misses, stats.hits()), (2 * 3, 2 * 3));
/// ```
///
/// # Misuse
///
/// There must be one id for each row. Rows of one call with the same id must be equal, bit for bit.
/// Both are checked when the cache is used: not in training, and not while it is disabled.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the ids of a batch",
    label = "no list of ids",
    note = "ids are a `&Tensor`, or a `&[T]` or `&Vec<T>` of integers, lists of integers, text, paths, bytes or tuples of these; of an array, pass `.as_slice()`"
)]
pub trait SampleIds<'r>: Sized {
    #[doc(hidden)]
    type Held: Default;

    #[doc(hidden)]
    fn describe<'a>(&'a self) -> Ids<'a>;

    /// The value for the body: the ids of the rows to compute.
    #[doc(hidden)]
    fn rows(&self, rows: &'r SelectedRows, held: &'r mut Self::Held) -> Self;
}

impl<'a> Arguments<'a> {
    /// Adds an argument that is marked `#[id]`.
    #[must_use]
    pub fn with_id<'r, A: SampleIds<'r>>(mut self, argument: &'a A) -> Self {
        self.set_ids(argument.describe());
        self.next()
    }

    /// Leaves the shapes of rows out of the keys, which have ids: the mark is `#[id(any_shape)]`.
    #[must_use]
    pub fn any_shape(mut self) -> Self {
        let ids = self.ids.iter_mut();
        ids.for_each(|ids| ids.any_shape = true);
        self
    }
}

impl SelectedRows {
    /// The ids of these rows.
    pub fn id<'r, A: SampleIds<'r>>(&'r self, argument: &A, held: &'r mut A::Held) -> A {
        argument.rows(self, held)
    }
}

impl<'r> SampleIds<'r> for &'r Tensor {
    type Held = Nothing;

    fn describe<'a>(&'a self) -> Ids<'a> {
        Ids::Tensor(self.shallow_clone())
    }

    fn rows(&self, rows: &'r SelectedRows, _: &'r mut Nothing) -> Self {
        rows.ids().unwrap_or(self)
    }
}

impl<'r, T: SampleId> SampleIds<'r> for &'r [T] {
    type Held = Vec<T>;

    fn describe<'a>(&'a self) -> Ids<'a> {
        Ids::List(self)
    }

    fn rows(&self, rows: &'r SelectedRows, held: &'r mut Vec<T>) -> Self {
        selected(self, rows, held).map_or(self, Vec::as_slice)
    }
}

impl<'r, T: SampleId> SampleIds<'r> for &'r Vec<T> {
    type Held = Vec<T>;

    fn describe<'a>(&'a self) -> Ids<'a> {
        Ids::List(*self)
    }

    fn rows(&self, rows: &'r SelectedRows, held: &'r mut Vec<T>) -> Self {
        selected(self, rows, held).unwrap_or(self)
    }
}

/// The ids of the rows to compute, unless those are all.
fn selected<'r, T: Clone>(
    all: &[T],
    rows: &SelectedRows,
    held: &'r mut Vec<T>,
) -> Option<&'r Vec<T>> {
    let selection = rows.selection()?.iter();
    held.extend(selection.map(|&row| all[row as usize].clone()));
    Some(held)
}
