//! What can go wrong through misuse, and how it is said.
//!
//! Faults of the machine (a full disk, a corrupt file) are not here: they are misses, counted in
//! [`Stats`](crate::Stats). An [`Error`] is a mistake in how the cache is used, and its message
//! names the module, what was got, what was expected and what to do.

use std::path::PathBuf;

/// A misuse of the cache, with the module it happened in.
///
/// A cached function that returns `Result<_, E>` with `E: From<torchcache::Error>` returns it; any
/// other cached function panics with its message, as tch's own functions do.
///
/// ```
/// use torchcache::{Options, Problem};
///
/// let error = Options::new().max_memory_cache_size("5 parsecs").validate().unwrap_err();
/// assert!(matches!(error.problem(), Problem::Option { name: "max_memory_cache_size", .. }));
/// assert!(error.to_string().contains("5 parsecs"));
/// ```
#[derive(Debug, thiserror::Error)]
#[error("torchcache: {}{problem}", match module { Some(module) => format!("{module}: "), None => String::new() })]
pub struct Error {
    module: Option<String>,
    problem: Box<Problem>,
}

/// What a part of an output is called in messages.
pub(crate) fn output(part: &str) -> String {
    match part {
        "output" => "the output".to_owned(),
        part => format!("output `{part}`"),
    }
}

/// What exactly was wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// An option whose value is out of range or does not fit the others.
    #[error("option `{name}`: got {got}; expected {expected}")]
    Option {
        /// The option's name.
        name: &'static str,
        /// The value given.
        got: String,
        /// What would be accepted.
        expected: String,
    },
    /// The call has no tensor to take a batch from.
    #[error(
        "no tensor argument: rows are cached by the first dimension of the tensors passed, and every argument was plain, shared, `None` or an empty list; pass at least one `&Tensor`, or ids that are marked `#[id]`"
    )]
    NoTensor,
    /// A tensor argument without a batch dimension.
    #[error(
        "argument `{argument}` is a 0-d tensor; expected the batch as its first dimension: give it one with `unsqueeze(0)`, or pass the value as a plain number"
    )]
    ZeroDimensional {
        /// The argument's name.
        argument: String,
    },
    /// Tensor arguments whose first dimensions differ.
    #[error(
        "batch sizes differ: argument `{first}` has {first_rows} rows, argument `{second}` has {second_rows}; expected the same first dimension in every tensor argument"
    )]
    BatchSizes {
        /// The first tensor argument.
        first: String,
        /// Its rows.
        first_rows: i64,
        /// The argument that differs.
        second: String,
        /// Its rows.
        second_rows: i64,
    },
    /// Not as many ids as rows.
    #[error(
        "argument `{argument}` has {ids} ids for a batch of {rows}; expected one for each of its rows"
    )]
    IdCount {
        /// The name of the argument that has them.
        argument: String,
        /// The ids given.
        ids: i64,
        /// The rows of the batch.
        rows: i64,
    },
    /// A tensor that cannot be the ids of a batch.
    #[error("argument `{argument}` holds ids, and is {got}; expected integers of shape [rows]")]
    IdTensor {
        /// The argument's name.
        argument: String,
        /// Its kind and shape.
        got: String,
    },
    /// Rows with the same id that are not the same.
    #[error(
        "rows {first} and {second} have the same id in `{ids}`, but differ in argument `{argument}`; expected one id to stand for one sample: give them different ids, or leave `#[id]` out so that rows are known by their content"
    )]
    SameId {
        /// The name of the argument that has the ids.
        ids: String,
        /// The first row.
        first: i64,
        /// The row that differs from it.
        second: i64,
        /// The argument that they differ in.
        argument: String,
    },
    /// The forward returned a tensor whose first dimension is not the batch.
    #[error(
        "{} has shape {got:?}; expected its first dimension to be the batch of {rows} rows: return one row of output per row of input, or leave this function uncached",
        output(part)
    )]
    OutputRows {
        /// Which tensor of the output: by the fields and places on the way to it, or `output`.
        part: String,
        /// The shape it had.
        got: Vec<i64>,
        /// The rows the forward was given.
        rows: i64,
    },
    /// A parameter that requires grad while gradients are recorded.
    #[error(
        "parameter `{parameter}` requires grad while gradients are recorded, and a cached output has none; freeze it (`vs.freeze()`), call inside `tch::no_grad`, or switch this cache off with `enabled = false`"
    )]
    RequiresGrad {
        /// The parameter's path within the module.
        parameter: String,
    },
    /// The output requires grad although no watched parameter does.
    #[error(
        "the output requires grad although no parameter that the cache watches does: a skipped field or a captured value holds trainable weights; freeze them (`vs.freeze()`) or call inside `tch::no_grad`"
    )]
    OutputRequiresGrad,
    /// Two wrapped modules that cannot be told apart.
    #[error(
        "the modules wrapped at {first} and at {second} have the same identity: type, weights and `version` are equal, and their code cannot be seen; give them different versions, or wrap the module in one place"
    )]
    SameIdentity {
        /// Where the first was wrapped.
        first: String,
        /// Where this one was.
        second: String,
    },
    /// The persistent directory cannot be used.
    #[error("cannot use the cache directory {}: {reason}; name another with `persistent_cache_dir` or TORCHCACHE_DIR, or mend this one", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// `TORCHCACHE_DIR` is set to something that is no absolute path.
    #[error(
        "the environment variable TORCHCACHE_DIR is {got:?}; expected an absolute path: correct it, or unset it to use a private temporary directory"
    )]
    EnvironmentDirectory {
        /// Its value.
        got: String,
    },
    /// The weights that stand for a module could not be read.
    #[error("cannot read the weights from {}: {reason}", path.display())]
    Weights {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
}

impl Error {
    pub(crate) fn new(module: impl Into<String>, problem: Problem) -> Self {
        Error {
            module: Some(module.into()),
            problem: Box::new(problem),
        }
    }

    /// What exactly was wrong.
    pub fn problem(&self) -> &Problem {
        &self.problem
    }

    /// The module or function the error is about; `None` where options were checked on their own.
    pub fn module(&self) -> Option<&str> {
        self.module.as_deref()
    }

    pub(crate) fn in_module(mut self, module: &str) -> Self {
        self.module.get_or_insert_with(|| module.to_owned());
        self
    }
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        Error {
            module: None,
            problem: Box::new(problem),
        }
    }
}
