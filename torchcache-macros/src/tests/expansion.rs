//! The expansion of each kind of item, as snapshots.

use insta::assert_snapshot;
use proc_macro2::TokenStream;

use super::tokens;
use crate::parse::derives::{ARGUMENT, BATCHED};

fn attribute(arguments: &str, item: &str) -> String {
    pretty(crate::attribute(tokens(arguments), tokens(item)))
}

/// What the attribute on a struct makes, and what the derive in it makes.
fn structure(arguments: &str, item: &str) -> String {
    let derive = crate::attribute(tokens(arguments), tokens(item));
    let mut item: syn::ItemStruct = syn::parse2(derive.clone()).unwrap();
    item.attrs
        .retain(|attribute| !attribute.path().is_ident("derive"));
    let derived = crate::derive_struct(quote::quote!(#item));
    pretty(quote::quote!(#derive #derived))
}

fn derive(item: &str) -> String {
    pretty(crate::derive(tokens(item)))
}

fn pretty(expansion: TokenStream) -> String {
    let file =
        syn::parse2(expansion.clone()).unwrap_or_else(|error| panic!("{error}: {expansion}"));
    prettyplease::unparse(&file)
}

#[test]
fn a_struct() {
    assert_snapshot!(structure(
        r#"persistent = true, max_memory_cache_size = "5 GB", eviction = "never""#,
        r#"
        /// A frozen backbone.
        #[derive(Debug)]
        pub struct Backbone {
            conv: nn::Conv2D,
            pub fc: nn::Linear,
            #[torchcache(skip)]
            label: String,
            torchcache_enabled: bool,
            torchcache: TorchCache,
        }
        "#,
    ));
}

#[test]
fn a_tuple_struct() {
    assert_snapshot!(structure("", "struct Scale(f64, torchcache::TorchCache);"));
}

#[test]
fn a_generic_struct() {
    assert_snapshot!(structure(
        "",
        "struct Residual<'a, M: nn::Module, const N: usize> {
            inner: [M; N],
            name: &'a str,
            cache: TorchCache,
        }",
    ));
}

#[test]
fn methods() {
    assert_snapshot!(attribute(
        "",
        "impl Codec for Vae {
            #[torchcache]
            fn encode(&self, xs: &Tensor) -> Tensor {
                xs.apply(&self.conv)
            }

            #[cfg(feature = \"decoder\")]
            #[torchcache(version = \"2\", whole_batch = true)]
            fn decode(&self, xs: &Tensor) -> Tensor {
                let xs = self.encode(xs);
                self.scale(&xs).relu() + Self::offset()
            }

            fn name(&self) -> &str {
                \"vae\"
            }
        }",
    ));
}

#[test]
fn a_module() {
    assert_snapshot!(attribute(
        "",
        "impl nn::Module for Backbone {
            fn forward(&self, xs: &Tensor) -> Tensor {
                // The comment is not part of the identity.
                xs.apply(&self.conv).relu().apply(&self.fc)
            }
        }",
    ));
}

#[test]
fn a_module_t() {
    assert_snapshot!(attribute(
        "",
        "impl nn::ModuleT for Backbone {
            fn forward_t(&self, xs: &Tensor, train: bool) -> Tensor {
                xs.apply(&self.fc).dropout(0.5, train)
            }
        }",
    ));
}

#[test]
fn a_generic_module() {
    assert_snapshot!(attribute(
        "",
        "impl<M: nn::Module> nn::Module for Residual<'_, M, 2> {
            fn forward(&self, xs: &Tensor) -> Tensor {
                xs + self.inner[0].forward(xs)
            }
        }",
    ));
}

#[test]
fn an_inherent_impl() {
    assert_snapshot!(attribute(
        "",
        "impl Attention {
            const HEADS: i64 = 8;

            /// Attends.
            #[must_use]
            pub fn forward(
                &self,
                mut query: Tensor,
                (low, high): (f64, f64),
                _: Option<&Tensor>,
            ) -> Result<(Tensor, Tensor), Error> {
                query = self.project(&query)?;
                Ok((query.clamp(low, high), query))
            }

            fn project(&self, xs: &Tensor) -> Result<Tensor, Error> {
                xs.f_mul_scalar(Self::HEADS)
            }
        }",
    ));
}

#[test]
fn a_function() {
    assert_snapshot!(attribute(
        "cache_dtype = Kind::Half",
        "/// Embeds tokens.
        pub(crate) fn embed(tokens: &Tensor, scale: f64) -> Tensor {
            tokens.to_kind(Kind::Float) * scale
        }",
    ));
}

#[test]
fn the_derive_of_a_struct() {
    assert_snapshot!(derive(
        "struct Config<T> { rate: f64, #[torchcache(skip)] label: String, extra: Option<T> }"
    ));
}

#[test]
fn the_derive_of_an_enum() {
    assert_snapshot!(derive(
        "enum Pooling { Mean, Power(f64), Window { size: i64, #[torchcache(skip)] label: String } }"
    ));
}

#[test]
fn a_function_with_argument_attributes() {
    assert_snapshot!(attribute(
        "",
        "fn attend(xs: &[Tensor], #[id(any_shape)] names: &[&str], #[shared] mask: &Tensor, #[skip] log: &Log,
             #[skip] rows: &Tensor, #[skip] #[shared] table: &Tensor, #[padded(PAD)] ids: &Tensor,
             #[skip] #[padded(-1)] types: Tokens) -> Encoded {
            encode(xs, mask)
        }",
    ));
}

#[test]
fn the_derive_of_an_output() {
    let item = "struct Encoded<T> { pooled: Tensor, inner: Option<T> }";
    assert_snapshot!(batched(item));
    assert_snapshot!(batched(
        "enum Encoded { Pooled(Tensor), Tokens { hidden: Tensor, #[batched(constant)] heads: i64 }, Nothing }"
    ));
}

fn batched(item: &str) -> String {
    let expand = crate::expand::tensors::batched;
    pretty(crate::derive_tensors(tokens(item), BATCHED, expand))
}

#[test]
fn the_derive_of_an_argument() {
    let expand = crate::expand::tensors::argument;
    let argument = |item| pretty(crate::derive_tensors(tokens(item), ARGUMENT, expand));
    assert_snapshot!(argument(
        "struct Inputs<'a, T> { ids: &'a Tensor, rest: Vec<T>, #[argument(plain)] pooling: Pooling }"
    ));
    assert_snapshot!(argument(
        "enum Inputs { Ids(Tensor, i64), Pixels { of: Tensor }, Nothing }"
    ));
}
