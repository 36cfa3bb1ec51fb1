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
    /// The structure of its output, as text.
    pub output: fn() -> String,
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
