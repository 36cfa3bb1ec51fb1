//! The arguments of a cached function: tensors are cut into rows, the rest goes into every key.

use tch::{Device, Kind, Tensor};

use crate::error::Problem;
use crate::function::Function;
use crate::identity::{Collector, Fingerprint, Fingerprinter};

/// An argument that a cached function can take: a tensor (`&Tensor`, `Tensor`, `Option<&Tensor>`,
/// `Option<Tensor>`) or a [`PlainArgument`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an argument of a cached function",
    label = "neither a tensor nor a plain argument",
    note = "tensors are taken as `&Tensor`, `Tensor` or `Option<&Tensor>`; a plain type of your own needs `#[derive(Clone, torchcache::Fingerprint)]` and `impl torchcache::PlainArgument for …`"
)]
pub trait Argument<'r>: Sized {
    /// Adds this argument to the call's keys and tensors.
    #[doc(hidden)]
    fn describe(&self, arguments: &mut Arguments);

    /// What the body gets in its place: the rows to compute, or the plain value.
    #[doc(hidden)]
    fn rows(&self, rows: &'r Rows, position: usize) -> Self;
}

/// An argument that is the same for all rows and part of every row's key: numbers (floats by their
/// bits), `bool`, `char`, text, `Option`, tuples, slices, `Vec`, `Kind`, `Device`.
///
/// ```
/// use torchcache::{Fingerprint, PlainArgument};
///
/// #[derive(Clone, Copy, Fingerprint)]
/// enum Pooling {
///     Mean,
///     Max,
/// }
///
/// impl PlainArgument for Pooling {}
/// ```
pub trait PlainArgument: Fingerprint + Clone {}

macro_rules! plain_arguments {
    ($($type:ty)*) => {$(impl PlainArgument for $type {})*};
}

plain_arguments! {
    u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize f32 f64 bool char String Kind Device &str
}

impl PlainArgument for () {}
impl<T: PlainArgument> PlainArgument for &T {}
impl<T: PlainArgument> PlainArgument for &[T] {}
impl<T: PlainArgument> PlainArgument for Option<T> {}
impl<T: PlainArgument> PlainArgument for Vec<T> {}
impl<T: PlainArgument, const N: usize> PlainArgument for [T; N] {}

macro_rules! plain_tuples {
    ($(($($type:ident),+))*) => {$(
        impl<$($type: PlainArgument),+> PlainArgument for ($($type,)+) {}
    )*};
}

plain_tuples! { (A) (A, B) (A, B, C) (A, B, C, D) (A, B, C, D, E) (A, B, C, D, E, F) }

#[diagnostic::do_not_recommend]
impl<'r, T: PlainArgument> Argument<'r> for T {
    fn describe(&self, arguments: &mut Arguments) {
        arguments.plain(self);
    }

    fn rows(&self, _: &'r Rows, _: usize) -> Self {
        self.clone()
    }
}

impl<'r> Argument<'r> for &'r Tensor {
    fn describe(&self, arguments: &mut Arguments) {
        arguments.tensor(self);
    }

    fn rows(&self, rows: &'r Rows, position: usize) -> Self {
        rows.tensor(position)
    }
}

impl<'r> Argument<'r> for Tensor {
    fn describe(&self, arguments: &mut Arguments) {
        arguments.tensor(self);
    }

    fn rows(&self, rows: &'r Rows, position: usize) -> Self {
        rows.tensor(position).shallow_clone()
    }
}

impl<'r> Argument<'r> for Option<&'r Tensor> {
    fn describe(&self, arguments: &mut Arguments) {
        arguments.optional_tensor(*self);
    }

    fn rows(&self, rows: &'r Rows, position: usize) -> Self {
        self.map(|_| rows.tensor(position))
    }
}

impl<'r> Argument<'r> for Option<Tensor> {
    fn describe(&self, arguments: &mut Arguments) {
        arguments.optional_tensor(self.as_ref());
    }

    fn rows(&self, rows: &'r Rows, position: usize) -> Self {
        self.as_ref().map(|_| rows.tensor(position).shallow_clone())
    }
}

/// The arguments of one call, in order.
#[doc(hidden)]
#[derive(Debug, Default)]
pub struct Arguments {
    pub(crate) tensors: Vec<TensorArgument>,
    /// A digest of every plain argument, with its position and type.
    pub(crate) plain: Vec<(usize, [u8; 32])>,
    count: usize,
}

/// A tensor argument and where it stands.
#[derive(Debug)]
pub(crate) struct TensorArgument {
    pub(crate) position: usize,
    pub(crate) tensor: Tensor,
}

impl Arguments {
    /// No arguments yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// With one argument more.
    #[must_use]
    pub fn with<'r, A: Argument<'r>>(mut self, argument: &A) -> Self {
        argument.describe(&mut self);
        self.count += 1;
        self
    }

    /// The rows of the batch that the tensors share.
    ///
    /// # Errors
    ///
    /// No tensor, a 0-d tensor, or batch sizes that differ.
    pub(crate) fn rows(&self, function: &Function) -> Result<i64, Problem> {
        let name = |argument: &TensorArgument| function.argument(argument.position);
        let mut first: Option<(&TensorArgument, i64)> = None;
        for argument in &self.tensors {
            let Some(&rows) = argument.tensor.size().first() else {
                return Err(Problem::ZeroDimensional {
                    argument: name(argument),
                });
            };
            let (first, first_rows) = *first.get_or_insert((argument, rows));
            if rows != first_rows {
                return Err(Problem::BatchSizes {
                    first: name(first),
                    first_rows,
                    second: name(argument),
                    second_rows: rows,
                });
            }
        }
        first.map(|(_, rows)| rows).ok_or(Problem::NoTensor)
    }

    fn plain<T: Fingerprint>(&mut self, value: &T) {
        let mut collector = Collector::default();
        value.fingerprint(&mut Fingerprinter::hash(&mut collector));
        self.plain.push((self.count, collector.digest()));
    }

    fn tensor(&mut self, tensor: &Tensor) {
        self.tensors.push(TensorArgument {
            position: self.count,
            tensor: tensor.shallow_clone(),
        });
    }

    fn optional_tensor(&mut self, tensor: Option<&Tensor>) {
        match tensor {
            Some(tensor) => self.tensor(tensor),
            // Told apart from a plain `None` by its position's type, which is in the identity.
            None => self.plain(&None::<()>),
        }
    }
}

/// The tensors that the body of a cached function is run on: all rows of the call, or those missed.
#[doc(hidden)]
#[derive(Debug)]
pub struct Rows {
    tensors: Vec<TensorArgument>,
    count: i64,
}

impl Rows {
    /// Every row of the call, in the caller's own tensors.
    pub(crate) fn all(arguments: &Arguments) -> Self {
        let first = arguments.tensors.first().map(|first| first.tensor.size());
        let count = first.and_then(|size| size.first().copied()).unwrap_or(0);
        Rows {
            tensors: arguments
                .tensors
                .iter()
                .map(TensorArgument::shallow_clone)
                .collect(),
            count,
        }
    }

    /// The rows at `positions`, copied together.
    pub(crate) fn selected(
        arguments: &Arguments,
        positions: &[i64],
    ) -> Result<Self, tch::TchError> {
        let index = Tensor::from_slice(positions);
        let select = |argument: &TensorArgument| {
            let index = index.f_to_device(argument.tensor.device())?;
            let tensor = argument.tensor.f_index_select(0, &index)?;
            Ok::<_, tch::TchError>(TensorArgument {
                position: argument.position,
                tensor,
            })
        };
        let tensors = arguments
            .tensors
            .iter()
            .map(select)
            .collect::<Result<_, _>>()?;
        Ok(Rows {
            tensors,
            count: positions.len() as i64,
        })
    }

    /// How many rows there are.
    pub(crate) fn count(&self) -> i64 {
        self.count
    }

    /// The value of the argument at `position` for these rows.
    pub fn argument<'r, A: Argument<'r>>(&'r self, argument: &A, position: usize) -> A {
        argument.rows(self, position)
    }

    fn tensor(&self, position: usize) -> &Tensor {
        let argument = self
            .tensors
            .iter()
            .find(|argument| argument.position == position);
        &argument
            .expect("generated code asks for the arguments it gave")
            .tensor
    }
}

impl TensorArgument {
    fn shallow_clone(&self) -> Self {
        TensorArgument {
            position: self.position,
            tensor: self.tensor.shallow_clone(),
        }
    }
}
