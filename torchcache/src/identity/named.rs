//! [`Named`]: code that has no name of its own.

use std::any::type_name;
use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;

use tch::{Tensor, nn};

use super::fingerprint::{Fingerprint, Fingerprinter};

/// A function, a closure or another value without a [`Fingerprint`], with a name that stands for it in
/// the identity of a module.
///
/// The compiler gives a function pointer or a `Box<dyn Fn>` no name that holds in the next run. Two of
/// them with one name are the same to the cache, so the name must change with the code and with
/// every value that a closure captures. Weights that it captures are seen only in another field, such as their
/// `VarStore`.
///
/// It dereferences to the value, and can be called as that can.
///
/// ```
/// use tch::nn::Module;
/// use tch::{Tensor, nn};
/// use torchcache::{Named, TorchCache, torchcache};
///
/// #[torchcache]
/// #[derive(Debug)]
/// struct Mlp {
///     fc: nn::Linear,
///     activation: Named<fn(&Tensor) -> Tensor>,
///     scaling: Named<Box<dyn Fn(&Tensor) -> Tensor + Send>>,
///     torchcache: TorchCache,
/// }
///
/// #[torchcache]
/// impl nn::Module for Mlp {
///     fn forward(&self, xs: &Tensor) -> Tensor {
///         (self.scaling)(&(self.activation)(&xs.apply(&self.fc)))
///     }
/// }
///
/// let mut vs = nn::VarStore::new(tch::Device::Cpu);
/// let factor = 0.5;
/// let mlp = Mlp {
///     fc: nn::linear(vs.root(), 4, 2, Default::default()),
///     activation: Named::new("tanh", Tensor::tanh),
///     scaling: Named::new(format!("times {factor}"), Box::new(move |xs| xs * factor)),
///     torchcache: TorchCache::default(),
/// };
/// vs.freeze();
/// let xs = Tensor::randn([8, 4], tch::kind::FLOAT_CPU);
/// assert_eq!(mlp.forward(&xs), mlp.forward(&xs));
/// assert_eq!(mlp.torchcache.stats().memory.hits, 8);
/// ```
#[derive(Clone)]
pub struct Named<F: ?Sized> {
    name: Cow<'static, str>,
    value: F,
}

impl<F> Named<F> {
    /// Gives `value` a name that no other value in such a field has.
    pub fn new(name: impl Into<Cow<'static, str>>, value: F) -> Self {
        Named {
            name: name.into(),
            value,
        }
    }

    /// Returns the value without its name.
    pub fn into_inner(self) -> F {
        self.value
    }
}

impl<F: ?Sized> Named<F> {
    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl<F: ?Sized> Deref for Named<F> {
    type Target = F;

    fn deref(&self) -> &F {
        &self.value
    }
}

impl<F: ?Sized> fmt::Debug for Named<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Named").field(&self.name).finish()
    }
}

impl<F: ?Sized> Fingerprint for Named<F> {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        f.plain("Named", type_name::<F>().as_bytes(), &type_name::<F>());
        f.field("name", &*self.name);
    }
}

/// For `apply`, where the value is a module such as [`nn::Func`].
impl<M: nn::Module> nn::Module for Named<M> {
    #[track_caller]
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.value.forward(xs)
    }
}
