//! [`Function`]: what the attribute records of a cached function at compile time.

/// A cached function.
#[doc(hidden)]
#[derive(Debug, Clone, Copy)]
pub struct Function {
    /// Its name.
    pub name: &'static str,
    /// The names of its arguments, in order, without `self` and those that mean training.
    pub arguments: &'static [&'static str],
    /// The tokens of its signature and body, without comments.
    pub code: &'static str,
    /// What the compiler put into its body.
    pub inputs: &'static [BuildInput],
    /// The structure of its output, as text.
    pub output: fn() -> String,
}

/// A value that the compiler put into a body.
#[doc(hidden)]
#[derive(Debug, Clone, Copy)]
pub struct BuildInput {
    /// The invocation.
    pub name: &'static str,
    pub value: BuildValue,
}

/// What an invocation in a body expanded to.
#[doc(hidden)]
#[derive(Debug, Clone, Copy)]
pub enum BuildValue {
    /// Of `cfg!` and `#[cfg]`.
    Cfg(bool),
    /// Of `env!` and `option_env!`.
    Variable(Option<&'static str>),
    /// Of `include!`, `include_str!` and `include_bytes!`.
    File(&'static [u8]),
}

impl Function {
    /// The name of the argument at `position`, for messages.
    pub(crate) fn argument(&self, position: usize) -> String {
        match self.arguments.get(position) {
            Some(name) => (*name).to_owned(),
            None => format!("#{position}"),
        }
    }
}
