//! [`Function`]: what the attribute records of a cached function or method at compile time.

use std::any::TypeId;

use crate::definition::Definition;

/// A cached function or method.
#[doc(hidden)]
#[derive(Debug, Clone, Copy)]
pub struct Function {
    /// Its name.
    pub name: &'static str,
    /// The impl of a method.
    pub implementation: Option<Implementation>,
    /// The names of its arguments, in order, without `self` and those that mean training.
    pub arguments: &'static [&'static str],
    /// The tokens of its signature and body, without comments.
    pub code: &'static str,
    /// What the compiler put into its body.
    pub inputs: &'static [BuildInput],
    /// The cached methods of the same module that its body names.
    pub callees: &'static [fn() -> Option<&'static Function>],
    pub options: FunctionOptions,
}

/// An annotated impl.
#[doc(hidden)]
#[derive(Debug, Clone, Copy)]
pub struct Implementation {
    /// The path of its trait as written; empty for an inherent impl, and for the one that holds `forward`.
    pub of: &'static str,
    pub definition: Definition,
}

/// The options of a single method.
#[doc(hidden)]
#[derive(Debug, Clone, Copy)]
pub struct FunctionOptions {
    /// Stands for code that it calls.
    pub(crate) version: &'static str,
    /// The share of hits to compute again.
    pub(crate) verify: f64,
    /// Whether its body gets whole batches alone.
    pub(crate) whole_batch: bool,
    /// How many seconds its calls wait for rows of others, where that is not as for the module.
    pub(crate) single_flight_timeout: Option<f64>,
}

impl FunctionOptions {
    /// No options.
    pub const NONE: Self = FunctionOptions {
        version: "",
        verify: 0.0,
        whole_batch: false,
        single_flight_timeout: None,
    };

    pub const fn version(self, version: &'static str) -> Self {
        FunctionOptions { version, ..self }
    }

    /// # Panics
    ///
    /// While the constant is evaluated, so that the error is shown at the option.
    pub const fn verify(self, verify: f64) -> Self {
        assert!(
            verify >= 0.0 && verify <= 1.0,
            "option `verify`: expected a share from 0.0 (off) to 1.0"
        );
        FunctionOptions { verify, ..self }
    }

    pub const fn whole_batch(self, whole_batch: bool) -> Self {
        FunctionOptions {
            whole_batch,
            ..self
        }
    }

    /// # Panics
    ///
    /// While the constant is evaluated, so that the error is shown at the option.
    pub const fn single_flight_timeout(self, seconds: f64) -> Self {
        assert!(
            seconds >= 0.0 && seconds <= 86_400.0,
            "option `single_flight_timeout`: expected seconds from 0.0 (off) to 86400.0 (a day)"
        );
        FunctionOptions {
            single_flight_timeout: Some(seconds),
            ..self
        }
    }
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

impl BuildValue {
    /// Its kind, and its bytes.
    pub(crate) fn bytes(&self) -> (&'static [u8], &'static [u8]) {
        match *self {
            BuildValue::Cfg(true) => (b"cfg", b"true"),
            BuildValue::Cfg(false) => (b"cfg", b"false"),
            BuildValue::Variable(None) => (b"no variable", b""),
            BuildValue::Variable(Some(value)) => (b"variable", value.as_bytes()),
            BuildValue::File(bytes) => (b"file", bytes),
        }
    }
}

impl Function {
    /// A function of unknown code.
    pub(crate) const fn unknown(name: &'static str, arguments: &'static [&'static str]) -> Self {
        Function {
            name,
            implementation: None,
            arguments,
            code: "",
            inputs: &[],
            callees: &[],
            options: FunctionOptions::NONE,
        }
    }

    /// What tells it apart from others of its module: its name, for a method with the trait, and with the
    /// place of its impl where that counts.
    pub(crate) fn full_name(&self) -> String {
        let name = self.name;
        let Some(Implementation { of, definition }) = &self.implementation else {
            return name.to_owned();
        };
        let name = match *of {
            "" => name.to_owned(),
            of => format!("<{of}>::{name}"),
        };
        match definition.place() {
            Some(place) => format!("{name} at {place}"),
            None => name,
        }
    }

    /// A digest of the name, the code, what the compiler put into it, and the version.
    pub(crate) fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        let mut add = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        add(self.full_name().as_bytes());
        add(self.code.as_bytes());
        for input in self.inputs {
            let (kind, value) = input.value.bytes();
            add(input.name.as_bytes());
            add(kind);
            add(value);
        }
        add(b"version");
        add(self.options.version.as_bytes());
        *hasher.finalize().as_bytes()
    }

    /// The digest, with the name of the module that it is of, or its own with its path.
    pub(crate) fn code_in(&self, module: &str) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(module.len() as u64).to_le_bytes());
        hasher.update(module.as_bytes());
        hasher.update(&self.digest());
        *hasher.finalize().as_bytes()
    }

    /// Whether its code is unknown: it is that of a wrapped module.
    pub(crate) fn is_unknown(&self) -> bool {
        self.code.is_empty()
    }

    /// Which impl of this process it is in.
    pub(crate) fn implementation_id(&self) -> Option<TypeId> {
        self.implementation.map(|it| it.definition.type_id())
    }

    /// The methods of [`callees`](Self::callees), and theirs.
    pub(crate) fn all_callees(&'static self) -> Vec<&'static Function> {
        let mut found: Vec<&'static Function> = Vec::new();
        let mut rest = vec![self];
        while let Some(function) = rest.pop() {
            for callee in function.callees.iter().filter_map(|callee| callee()) {
                if !found.iter().any(|known| std::ptr::eq(*known, callee)) {
                    found.push(callee);
                    rest.push(callee);
                }
            }
        }
        found
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
    use crate::definition::Place;

    const FUNCTION: Function = Function {
        code: "{ xs }",
        ..Function::unknown("forward", &["xs"])
    };

    #[test]
    fn all_that_decides_what_a_method_computes_is_in_its_digest() {
        struct Marker;
        let place = Place::new("src/lib.rs", None, (1, 2), (1, 2));
        let name = concat!(
            module_path!(),
            "::all_that_decides_what_a_method_computes_is_in_its_digest::Marker"
        );
        let of = |of, name| {
            let definition = Definition::of::<Marker>(name, place);
            Some(Implementation { of, definition })
        };
        let input = |value| -> &'static [BuildInput] {
            Box::leak(Box::new([BuildInput { name: "it", value }]))
        };
        let mut seen = std::collections::BTreeSet::new();
        for function in [
            FUNCTION,
            Function {
                name: "encode",
                ..FUNCTION
            },
            Function {
                code: "{ xs * 2 }",
                ..FUNCTION
            },
            Function {
                inputs: input(BuildValue::Cfg(true)),
                ..FUNCTION
            },
            Function {
                inputs: input(BuildValue::Cfg(false)),
                ..FUNCTION
            },
            Function {
                inputs: input(BuildValue::Variable(None)),
                ..FUNCTION
            },
            Function {
                inputs: input(BuildValue::Variable(Some(""))),
                ..FUNCTION
            },
            Function {
                inputs: input(BuildValue::File(b"")),
                ..FUNCTION
            },
            Function {
                implementation: of("Encoder", name),
                ..FUNCTION
            },
            Function {
                implementation: of("Decoder", name),
                ..FUNCTION
            },
            Function {
                implementation: of("Encoder", "in a body"),
                ..FUNCTION
            },
            Function {
                options: FunctionOptions::NONE.version("2"),
                ..FUNCTION
            },
        ] {
            assert!(seen.insert(function.digest()), "{function:?}");
        }
        for same in [
            Function {
                implementation: of("", name),
                ..FUNCTION
            },
            Function {
                options: FunctionOptions::NONE.whole_batch(true).verify(0.5),
                ..FUNCTION
            },
            Function {
                arguments: &["ys"],
                ..FUNCTION
            },
        ] {
            assert_eq!(same.digest(), FUNCTION.digest(), "{same:?}");
        }
    }
}
