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
    /// Whether the output for one row may lack the dimension of the batch: the code is unknown, drops
    /// dimensions of one element without naming them, or drops the first one.
    pub(crate) fn may_squeeze(&self) -> bool {
        // `xs.squeeze()`, or `Tensor::squeeze` as a value.
        let squeezes_all = || {
            self.calls(&["squeeze", "f_squeeze", "squeeze_"], |first| {
                first.is_none_or(|first| first == ")")
            })
        };
        self.code.is_empty() || squeezes_all() || self.squeezes_first()
    }

    /// Whether the code is unknown, or [squeezes the first dimension](Self::squeezes_first).
    pub(crate) fn may_squeeze_first(&self) -> bool {
        self.code.is_empty() || self.squeezes_first()
    }

    /// Whether the code drops the first dimension if it has one element. The second one may then look like
    /// it: `[1, 1, 5]` becomes `[1, 5]`.
    pub(crate) fn squeezes_first(&self) -> bool {
        self.calls(&["squeeze_dim", "f_squeeze_dim", "squeeze_dim_"], |first| {
            first.is_some_and(|first| first.trim_end_matches("i64") == "0")
        })
    }

    /// Whether the code names one of the methods, with such a first token in its parentheses; `None` where
    /// it has none.
    fn calls(&self, methods: &[&str], has: impl Fn(Option<&str>) -> bool) -> bool {
        let mut tokens = self.code.split(' ').peekable();
        while let Some(token) = tokens.next() {
            if methods.contains(&token) {
                let first = tokens.next_if_eq(&"(").and_then(|_| tokens.next());
                if has(first) {
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
    fn only_a_squeeze_of_all_or_of_the_first_dimension_counts() {
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
        assert!(squeezes("{ xs . squeeze_dim ( 0 ) }"));
        assert!(squeezes("{ xs . f_squeeze_dim ( 0i64 ) ? }"));
        assert!(!squeezes("{ xs . squeeze_dim ( - 1 ) }"));
        assert!(!squeezes(
            "{ xs . squeeze_dim ( 1 ) . map ( Tensor :: squeeze_dim ) }"
        ));
        assert!(!squeezes("{ xs . unsqueeze ( 0 ) . my_squeeze ( ) }"));
        assert!(!squeezes("{ squeeze ( xs ) }"));
        assert!(squeezes(""), "unknown code");
    }
}
