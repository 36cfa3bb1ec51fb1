//! A crate that forbids every lint of the compiler, also those that are allowed by default.

#![forbid(
    absolute_paths_not_starting_with_crate,
    ambiguous_negative_literals,
    dead_code,
    deprecated,
    elided_lifetimes_in_paths,
    explicit_outlives_requirements,
    ffi_unwind_calls,
    future_incompatible,
    if_let_rescope,
    keyword_idents,
    let_underscore_drop,
    macro_use_extern_crate,
    meta_variable_misuse,
    missing_abi,
    missing_copy_implementations,
    missing_debug_implementations,
    missing_docs,
    nonstandard_style,
    non_ascii_idents,
    non_local_definitions,
    redundant_imports,
    redundant_lifetimes,
    refining_impl_trait,
    rust_2018_idioms,
    rust_2021_compatibility,
    rust_2024_compatibility,
    single_use_lifetimes,
    tail_expr_drop_order,
    trivial_casts,
    trivial_numeric_casts,
    unexpected_cfgs,
    unit_bindings,
    unnameable_types,
    unreachable_pub,
    unsafe_code,
    unsafe_op_in_unsafe_fn,
    unstable_features,
    unused,
    unused_crate_dependencies,
    unused_extern_crates,
    unused_import_braces,
    unused_lifetimes,
    unused_macro_rules,
    unused_qualifications,
    unused_results,
    variant_size_differences,
    warnings
)]

/// Every kind of item.
pub mod every_lint_of_the_compiler_forbidden {
    use tch::{Tensor, nn};
    use torchcache::{Batched, Fingerprint, TorchCache, torchcache};

    /// Documented.
    #[derive(Debug, Clone, Copy, Fingerprint)]
    pub enum Mode {
        /// Documented.
        Plain,
        /// Documented.
        Scaled(f64),
    }

    /// Documented.
    #[derive(Debug, Batched)]
    pub struct Encoded {
        /// Documented.
        pub rows: Tensor,
    }

    /// Documented.
    #[torchcache(persistent = true, max_memory_cache_size = "1 GB")]
    #[derive(Debug)]
    pub struct Scale {
        /// Documented.
        pub mode: Mode,
        /// Documented.
        #[torchcache(skip)]
        pub opaque: fn(f64),
        /// Documented.
        pub torchcache_enabled: bool,
        /// Documented.
        pub torchcache: TorchCache,
    }

    #[torchcache]
    impl nn::Module for Scale {
        fn forward(&self, xs: &Tensor) -> Tensor {
            match self.mode {
                Mode::Plain => xs.shallow_clone(),
                Mode::Scaled(by) => xs * by,
            }
        }
    }

    /// Documented.
    #[torchcache]
    #[derive(Debug)]
    pub struct Wrap<M, const N: usize> {
        /// Documented.
        pub inner: [M; N],
        /// Documented.
        pub torchcache: TorchCache,
    }

    #[torchcache]
    impl<M: nn::Module, const N: usize> nn::Module for Wrap<M, N> {
        fn forward(&self, xs: &Tensor) -> Tensor {
            xs * 2
        }
    }

    /// Documented.
    #[torchcache]
    #[derive(Debug)]
    pub struct Named<'a> {
        /// Documented.
        pub name: &'a str,
        /// Documented.
        pub torchcache: TorchCache,
    }

    #[torchcache]
    impl Named<'_> {
        /// Documented.
        pub fn forward(&self, xs: &Tensor, by: f64) -> Result<Tensor, torchcache::Error> {
            Ok(xs * by * self.name.len() as f64)
        }

        /// Documented.
        pub fn forward_t(&self, xs: &Tensor, train: bool) -> Tensor {
            xs.dropout(0.5, train)
        }
    }

    const UNSEEN: i64 = -1;

    /// Documented.
    #[torchcache]
    pub fn encode(
        xs: &Tensor,
        #[id(any_shape)] ids: &[i64],
        #[shared] mask: &Tensor,
        #[skip] log: &dyn Fn(&Tensor),
        #[skip] pairs: &Tensor,
        #[padded(0)] tokens: &Tensor,
        #[skip]
        #[padded(UNSEEN - 1)]
        seen: &Tensor,
        scale: (f64, f64),
    ) -> Encoded {
        let scale = scale.0 * ids.len() as f64 * if cfg!(feature = "on") { 1.0 } else { 2.0 };
        let rows = xs * mask * scale * tokens * seen;
        log(pairs);
        Encoded { rows }
    }
}
