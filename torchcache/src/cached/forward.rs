//! [`Forward`]: what a [`Cached`](super::Cached) can call.

use tch::{Tensor, nn};

/// A module that [`Cached`](crate::Cached) can call: an [`nn::Module`] or [`nn::ModuleT`], a `Box` of one as `dyn`, or a
/// closure that takes `&Tensor`, or `&Tensor` and whether the module is being trained.
///
/// The type of a module in a box is not part of the module hash. Pass a `CModule` that is in one as its weights as well.
/// The compiler finds `Kind`.
///
/// ```
/// use tch::{Device, Tensor, nn};
/// use torchcache::{Cached, Options};
///
/// let mut vs = nn::VarStore::new(Device::Cpu);
/// let linear = nn::linear(vs.root(), 4, 2, Default::default());
/// vs.freeze();
/// let options = |version| Options::builder().version(version).build();
/// let boxed: Box<dyn nn::Module> = Box::new(linear);
/// let boxed = Cached::new(boxed, &vs, options("linear")?)?;
/// let double = Cached::new(|xs: &Tensor| xs * 2, (), options("double")?)?;
///
/// let xs = Tensor::randn([8, 4], tch::kind::FLOAT_CPU);
/// for _ in 0..2 {
///     double.forward(&boxed.forward(&xs));
/// }
/// assert_eq!((boxed.cache().stats().memory.hits, double.cache().stats().memory.hits), (8, 8));
/// # Ok::<(), torchcache::Error>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`Cached` cannot call `{Self}`",
    label = "neither a module nor a closure from `&Tensor` to `Tensor`",
    note = "expected an `nn::Module` or `nn::ModuleT`, a `Box` of one as `dyn`, or a closure such as `|xs: &Tensor| xs * 2`; another type is called in a closure that captures it"
)]
pub trait Forward<Kind> {
    #[doc(hidden)]
    fn run(&self, xs: &Tensor, train: bool) -> Tensor;
}

/// Implements `Forward` with a kind of its own for each set of types, since the compiler does not know that they are
/// disjoint.
macro_rules! forwards {
    ($($kind:ident: [$($generics:tt)*] $type:ty, |$module:ident, $xs:ident, $train:ident| $run:expr;)*) => {$(
        #[doc(hidden)]
        #[derive(Debug)]
        pub struct $kind;

        impl<$($generics)*> Forward<$kind> for $type {
            fn run(&self, $xs: &Tensor, $train: bool) -> Tensor {
                let $module = self;
                $run
            }
        }
    )*};
}

forwards! {
    OfModule: [M: nn::ModuleT] M, |module, xs, train| module.forward_t(xs, train);
    OfBoxed: [] Box<dyn nn::Module + '_>, |module, xs, _train| module.forward(xs);
    OfBoxedT: [] Box<dyn nn::ModuleT + '_>, |module, xs, train| module.forward_t(xs, train);
    OfClosure: [F: Fn(&Tensor) -> Tensor] F, |closure, xs, _train| closure(xs);
    OfClosureT: [F: Fn(&Tensor, bool) -> Tensor] F, |closure, xs, train| closure(xs, train);
}
