//! The errors of the API. Faults of the machine, such as a full disk or a corrupt file, are not
//! errors but misses, counted in [`Stats`](crate::Stats).

use std::error::Error as StdError;
use std::fmt::{self, Display};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tch::{Kind, TchError};
use torchcache_store::RemoveError;
use torchcache_store::remote::RemoteFlushError;

/// A misuse of a cache, or a directory or file that cannot be used.
///
/// A cached function that returns `Result<_, E>` with `E: From<torchcache::Error>` returns it; any
/// other cached function panics with its message, as functions of tch do. `TchError`, `String`,
/// `Box<dyn std::error::Error>` and `anyhow::Error` are such types. In a function that returns this error, `?`
/// takes a `TchError`.
///
/// ```
/// use torchcache::{ErrorKind, Options};
///
/// let error = Options::builder().max_memory_cache_size("5 parsecs").build().unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::InvalidOption);
/// assert!(error.to_string().contains("5 parsecs"));
/// ```
#[derive(Debug)]
pub struct Error {
    module: Option<String>,
    /// Shared with a handle whose directory could not be used.
    detail: Arc<Detail>,
}

/// The kind of an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The value of an option is out of range or does not fit the other options, or an environment
    /// variable has no valid value.
    InvalidOption,
    /// The call has no tensor argument to take rows from.
    NoTensorArgument,
    /// A tensor argument has no batch dimension.
    ZeroDimensionalArgument,
    /// The first dimensions of two tensor arguments differ.
    BatchSizeMismatch,
    /// There are not as many ids as rows.
    IdCountMismatch,
    /// A tensor of ids is not a vector of integers.
    InvalidIds,
    /// Two rows of a call have the same id and are not equal.
    DuplicateId,
    /// A tensor cannot have the padding of its mark, or not the length of the others with padding.
    InvalidPadding,
    /// The first dimension of an output is not the batch.
    OutputBatchMismatch,
    /// A parameter or an output requires grad while gradients are recorded.
    RequiresGrad,
    /// Two wrapped modules have the same identity.
    AmbiguousIdentity,
    /// The directory of a persistent cache cannot be used.
    Directory,
    /// The weights that identify a module cannot be read.
    Weights,
    /// libtorch failed in the body of a function that returns this error.
    Torch,
    /// A call whose rows were [peeked](crate::TorchCache::peek), [removed](crate::TorchCache::remove) or
    /// [imported](crate::TorchCache::import) bypasses the cache.
    Bypassed,
    /// The closure of [`peek`](crate::TorchCache::peek), [`remove`](crate::TorchCache::remove),
    /// [`recompute`](crate::TorchCache::recompute) or [`import`](crate::TorchCache::import) made no call, or none was
    /// made before `import` or [`remove_keys`](crate::TorchCache::remove_keys).
    NoCall,
    /// [Imported](crate::TorchCache::import) rows are not those of the call.
    InvalidImport,
    /// Rows could not be [removed](crate::TorchCache::remove) from the disk.
    NotRemoved,
    /// Rows could not be [uploaded](crate::TorchCache::flush_remote) to the remote.
    NotUploaded,
}

/// What a part of an output is called in messages.
pub(crate) fn output(part: &str) -> String {
    match part {
        "output" => "the output".to_owned(),
        part => format!("output `{part}`"),
    }
}

/// The error without its module: what happened, the values, what was expected, and the fix.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Detail {
    #[error("option `{name}`: got {got}; expected {expected}")]
    Option {
        name: &'static str,
        got: String,
        expected: String,
    },
    #[error(
        "no tensor argument: rows are the first dimension of tensor arguments, and every argument is plain, shared, skipped, `None` or an empty list; pass at least one `&Tensor`, or ids marked `#[id]`"
    )]
    NoTensor,
    #[error(
        "argument `{argument}` is a 0-d tensor; expected the batch as its first dimension: add one with `unsqueeze(0)`, or pass the value as a plain number"
    )]
    ZeroDimensional { argument: String },
    #[error(
        "batch sizes differ: argument `{first}` has {first_rows} rows, argument `{second}` has {second_rows}; expected the same first dimension in every tensor argument; mark one that is the same for all rows `#[shared]`"
    )]
    BatchSizes {
        first: String,
        first_rows: i64,
        second: String,
        second_rows: i64,
    },
    #[error("argument `{argument}` has {ids} ids for {rows} rows; expected one id for each row")]
    IdCount {
        argument: String,
        ids: i64,
        rows: i64,
    },
    #[error("argument `{argument}` holds ids and is {got}; expected integers of shape [rows]")]
    IdTensor {
        argument: String,
        /// Its kind and shape.
        got: String,
    },
    #[error(
        "argument `{argument}` is marked `#[padded]` and has shape {shape:?}; expected [rows, length, …]: add a dimension, or remove the mark"
    )]
    PaddedShape { argument: String, shape: Vec<i64> },
    #[error(
        "argument `{argument}` is marked `#[padded({value})]`, and its elements of kind {kind:?} have no such value; expected one that they have: write it as an integer, a float or a `bool`, as they are"
    )]
    PaddingValue {
        argument: String,
        value: String,
        kind: Kind,
    },
    #[error(
        "lengths differ: argument `{first}` has rows of length {first_length}, argument `{second}` of {second_length}; expected one length for all arguments marked `#[padded]`: pad them alike, or mark one of them only"
    )]
    PaddedLengths {
        first: String,
        first_length: i64,
        second: String,
        second_length: i64,
    },
    #[error(
        "rows {first} and {second} have the same id in `{ids}` but differ in argument `{argument}`; expected one id for each sample: give them different ids, or remove `#[id]` to key rows by their content"
    )]
    SameId {
        /// The argument that holds the ids.
        ids: String,
        first: i64,
        second: i64,
        /// The argument in which the rows differ.
        argument: String,
    },
    #[error(
        "{} has shape {got:?}; expected a first dimension of {rows}, the rows of the batch: return one row of output for each row of input, or do not cache this function",
        output(part)
    )]
    OutputRows {
        /// The path of the tensor in the output by fields and indices, or `output`.
        part: String,
        got: Vec<i64>,
        rows: i64,
    },
    #[error(
        "parameter `{parameter}` requires grad while gradients are recorded, and a cached output has none; freeze it (`vs.freeze()`), call inside `tch::no_grad`, or disable this cache with `enabled = false`"
    )]
    ParameterRequiresGrad {
        /// Its path within the module.
        parameter: String,
    },
    #[error(
        "the output requires grad although no watched parameter does: a skipped field or a captured value holds trainable weights; freeze them (`vs.freeze()`) or call inside `tch::no_grad`"
    )]
    OutputRequiresGrad,
    #[error(
        "the modules wrapped at {first} and at {second} have the same identity: type, weights and `version` are equal, and their code cannot be compared; give them different versions, or wrap the module in one place, with `Cached::shared`"
    )]
    SameIdentity { first: String, second: String },
    #[error(
        "{first} and {second} have the same identity: name, weights and `version` are equal, and the code around them cannot be compared; give them different versions or names, or use one of them for both"
    )]
    SameDefinition { first: String, second: String },
    #[error(
        "{first} and {second} may have the same identity: their names are equal, and this process has used more than {claims} module hashes of that name, too many to know by which of the two each was used; give them different names, or use one of them for both"
    )]
    PossiblySameDefinition {
        first: String,
        second: String,
        /// How many module hashes of a name are recorded.
        claims: usize,
    },
    #[error(
        "another module wrapped at {place} has the same identity: type, weights and `version` are equal, and code and captured values cannot be compared; give them different versions, or wrap them with `Cached::shared` if they compute the same"
    )]
    SameIdentityOnDisk { place: String },
    #[error("cannot use the cache directory {}; fix it, or name another with `persistent_cache_dir` or TORCHCACHE_DIR", path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error(
        "the environment variable TORCHCACHE_DIR is {got:?}; expected an absolute path, with `~` and variables expanded: correct it, or unset it to use a private temporary directory"
    )]
    EnvironmentDirectory { got: String },
    #[error(
        "the environment variable {name} is {got:?}; expected {expected}: correct it, or unset it for {default}"
    )]
    Environment {
        name: &'static str,
        got: String,
        expected: &'static str,
        /// What holds where it is not set.
        default: &'static str,
    },
    #[error("cannot read the weights from {}", path.display())]
    Weights { path: PathBuf, source: io::Error },
    #[error(
        "the parameters of a `TrainableCModule` can be watched only in the `VarStore` that it was loaded into; pass that store as its weights, or make it a field next to the module"
    )]
    WeightsWithoutStore,
    #[error("libtorch failed")]
    Torch(#[source] TchError),
    #[error("a call that bypasses the cache has no keys, and computes every row: {reason}")]
    Bypassed { reason: String },
    #[error(
        "the closure made no call of this cache itself; expected one of the function or of a method of the module that the handle is of, on this thread and not inside another cached function"
    )]
    NoCall,
    #[error(
        "the module hash is not known before the first call of the module; call it, or peek a call, before its rows are removed by key"
    )]
    NotAttached,
    #[error(
        "no call has shown which cached functions the body calls, and their code is in the keys of imported rows; call it once before, with any rows, or give the cache a `persistent_module_hash`, whose rows do not depend on code"
    )]
    UnknownCallees,
    #[error(
        "the closure made several calls of this cache; expected one, which the imported rows are of: import the rows of each call by themselves"
    )]
    ImportedTwice,
    #[error(
        "the imported value has the structure `{got}`, the output of the call `{expected}`; expected the type that the call in the closure returns"
    )]
    ImportedStructure { got: String, expected: String },
    #[error(
        "{} has shape {got:?} in the imported value; expected a first dimension of {rows}, the rows of the call",
        output(part)
    )]
    ImportedRows {
        part: String,
        got: Vec<i64>,
        rows: i64,
    },
    #[error("imported rows require grad, and cached rows have none; detach them (`detach()`)")]
    ImportedGradient,
    #[error(
        "imported rows are {got}, other rows of this cache {expected}; expected the kind and shape that the function returns: convert them, with `to_kind` or `reshape`"
    )]
    ImportedSchema { got: String, expected: String },
    #[error("the imported rows cannot be cached: {0}")]
    NotImported(String),
    #[cfg_attr(
        not(feature = "remote"),
        expect(dead_code, reason = "there is no remote tier")
    )]
    #[error("{setting}: {reason}")]
    Remote {
        /// What has the URL.
        setting: &'static str,
        /// What is wrong with it, and what was expected.
        reason: String,
    },
    #[error("not every row was uploaded")]
    NotUploaded(#[source] RemoteFlushError),
    #[error("rows are not removed from the disk, or not all of them; those that are left are hits")]
    NotRemoved(#[source] RemoveError),
}

impl Detail {
    pub(crate) fn directory(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        Detail::Directory { path, source }
    }

    fn kind(&self) -> ErrorKind {
        match self {
            Detail::Option { .. } | Detail::Environment { .. } | Detail::Remote { .. } => {
                ErrorKind::InvalidOption
            }
            Detail::NoTensor => ErrorKind::NoTensorArgument,
            Detail::ZeroDimensional { .. } => ErrorKind::ZeroDimensionalArgument,
            Detail::BatchSizes { .. } => ErrorKind::BatchSizeMismatch,
            Detail::IdCount { .. } => ErrorKind::IdCountMismatch,
            Detail::IdTensor { .. } => ErrorKind::InvalidIds,
            Detail::SameId { .. } => ErrorKind::DuplicateId,
            Detail::PaddedShape { .. }
            | Detail::PaddingValue { .. }
            | Detail::PaddedLengths { .. } => ErrorKind::InvalidPadding,
            Detail::OutputRows { .. } => ErrorKind::OutputBatchMismatch,
            Detail::ParameterRequiresGrad { .. } | Detail::OutputRequiresGrad => {
                ErrorKind::RequiresGrad
            }
            Detail::SameIdentity { .. }
            | Detail::SameIdentityOnDisk { .. }
            | Detail::SameDefinition { .. }
            | Detail::PossiblySameDefinition { .. } => ErrorKind::AmbiguousIdentity,
            Detail::Directory { .. } | Detail::EnvironmentDirectory { .. } => ErrorKind::Directory,
            Detail::Weights { .. } | Detail::WeightsWithoutStore => ErrorKind::Weights,
            Detail::Torch(_) => ErrorKind::Torch,
            Detail::Bypassed { .. } => ErrorKind::Bypassed,
            Detail::NoCall | Detail::NotAttached | Detail::UnknownCallees => ErrorKind::NoCall,
            Detail::ImportedTwice
            | Detail::ImportedStructure { .. }
            | Detail::ImportedRows { .. }
            | Detail::ImportedGradient
            | Detail::ImportedSchema { .. }
            | Detail::NotImported(_) => ErrorKind::InvalidImport,
            Detail::NotRemoved(_) => ErrorKind::NotRemoved,
            Detail::NotUploaded(_) => ErrorKind::NotUploaded,
        }
    }
}

impl Error {
    pub(crate) fn new(module: impl Into<String>, detail: Detail) -> Self {
        Error {
            module: Some(module.into()),
            detail: Arc::new(detail),
        }
    }

    /// The kind of the error.
    pub fn kind(&self) -> ErrorKind {
        self.detail.kind()
    }

    /// The module or function that was misused; `None` where options were checked on their own.
    pub fn module(&self) -> Option<&str> {
        self.module.as_deref()
    }

    pub(crate) fn detail(&self) -> &Detail {
        &self.detail
    }

    /// What kept the directory of a disk tier from being used.
    pub(crate) fn directory(&self) -> Option<Arc<Detail>> {
        (self.kind() == ErrorKind::Directory).then(|| self.detail.clone())
    }

    pub(crate) fn in_module(mut self, module: &str) -> Self {
        self.module.get_or_insert_with(|| module.to_owned());
        self
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(module) = &self.module {
            write!(f, "{module}: ")?;
        }
        self.detail.fmt(f)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.detail.source()
    }
}

impl From<Detail> for Error {
    fn from(detail: Detail) -> Self {
        Arc::new(detail).into()
    }
}

impl From<Arc<Detail>> for Error {
    fn from(detail: Arc<Detail>) -> Self {
        let module = None;
        Error { module, detail }
    }
}

impl From<TchError> for Error {
    fn from(error: TchError) -> Self {
        Detail::Torch(error).into()
    }
}

/// For cached functions that return the error of tch: a `TchError::Io` with the message of the library's error, and
/// with that inside ([`io::Error::get_ref`]).
impl From<Error> for TchError {
    fn from(error: Error) -> Self {
        io::Error::other(error).into()
    }
}

/// The message of the error and of its sources.
impl From<Error> for String {
    fn from(error: Error) -> Self {
        with_sources(&error)
    }
}

/// Why rows are not on disk after [`TorchCache::flush`](crate::TorchCache::flush). They are computed
/// again when they are next requested from another process, or from this one after leaving memory.
#[derive(Debug)]
#[non_exhaustive]
pub enum FlushError {
    /// The directory cannot be used, so no row was written.
    Directory(Arc<dyn StdError + Send + Sync>),
    /// Rows could not be written since the last flush, or were not written in time.
    Rows(Box<dyn StdError + Send + Sync>),
}

/// Rows that the disk tier was not given, or lost before it was replaced.
#[derive(Debug, thiserror::Error)]
#[error(
    "{rows} rows were computed while the directory could not be used, could not be copied, or were lost before the module hash or an option changed; they are in memory at most"
)]
pub(crate) struct Unwritten {
    pub(crate) rows: u64,
}

impl Display for FlushError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FlushError::Directory(_) => "no row was written to disk",
            FlushError::Rows(_) => "not every row was written to disk",
        })
    }
}

impl StdError for FlushError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(match self {
            FlushError::Directory(source) => &**source,
            FlushError::Rows(source) => &**source,
        })
    }
}

/// An error with its sources in one line, for panics and logs.
pub(crate) fn with_sources(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
