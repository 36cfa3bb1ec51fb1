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
    /// Whether the output for one row may lack the dimension of the batch: the code is unknown, or
    /// drops dimensions of one element without naming them.
    pub(crate) fn may_squeeze(&self) -> bool {
        if self.code.is_empty() {
            return true;
        }
        let mut tokens = self.code.split(' ').peekable();
        while let Some(token) = tokens.next() {
            if ["squeeze", "f_squeeze", "squeeze_"].contains(&token) {
                let arguments = tokens.next_if_eq(&"(").and_then(|_| tokens.next());
                // `xs.squeeze()`, or `Tensor::squeeze` as a value.
                if arguments.is_none_or(|first| first == ")") {
                    return true;
                }
            }
        }
        false
    }

    /// The name of the argument at `position`, for messages.
    pub(crate) fn argument(&self, position: usize) -> String {
        match self.arguments.get(position) {
            Some(name) => (*name).to_owned(),
            None => format!("#{position}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_squeeze_of_all_dimensions_counts() {
        let squeezes = |code| {
            let function = Function {
                name: "forward",
                arguments: &[],
                code,
                inputs: &[],
                output: String::new,
            };
            function.may_squeeze()
        };
        assert!(squeezes("{ xs . apply ( & self . fc ) . squeeze ( ) }"));
        assert!(squeezes("{ xs . f_squeeze ( ) ? }"));
        assert!(squeezes("{ xs . map ( Tensor :: squeeze ) }"));
        assert!(!squeezes("{ xs . squeeze_dim ( - 1 ) }"));
        assert!(!squeezes("{ xs . unsqueeze ( 0 ) . my_squeeze ( ) }"));
        assert!(!squeezes("{ squeeze ( xs ) }"));
        assert!(squeezes(""), "unknown code");
    }
}
