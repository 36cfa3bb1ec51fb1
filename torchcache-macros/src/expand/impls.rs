//! The expansion of an impl: the impl with its bodies in calls, and `CachedForward`.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Generics, ImplItem, ItemImpl, parse_quote};

use crate::expand::{definition, paired};
use crate::parse::attributes::{cfgs, is_generic, wrapped};
use crate::parse::impls::{Method, ModuleImpl, has_arguments};
use crate::parse::signature::remove_roles;

/// The expansion of a checked impl.
pub(crate) fn expand(parsed: &ModuleImpl) -> TokenStream {
    let mut item = parsed.item.clone();
    item.generics = with_struct_bounds(&item);
    for (place, method) in parsed.methods.iter().enumerate() {
        wrap(&mut item.items[method.index], method, place);
    }
    let constants = parsed
        .methods
        .iter()
        .map(|method| method.function.constant());
    let functions = quote!(&[#(#constants),*]);
    let batch = forward_batch(&item);
    let forward = cached_forward(&item, &functions, &batch);
    quote!(#item #forward)
}

/// `CachedForward::forward_batch` for an impl of `nn::Module`: tch's `forward_t`, which the default
/// calls, hides the caller from a panic.
fn forward_batch(item: &ItemImpl) -> Option<TokenStream> {
    let (path, _) = item.trait_.as_ref()?;
    let is_module = path.segments.last()?.ident == "Module";
    is_module.then(|| {
        quote! {
            fn forward_batch(&self, xs: &::torchcache::__private::Tensor) -> ::torchcache::__private::Tensor
            where
                Self: ::torchcache::__private::ModuleT,
            {
                <Self as #path>::forward(self, xs)
            }
        }
    })
}

/// The impl as written, the errors, and the item that the struct refers to.
pub(crate) fn fallback(item: &ItemImpl, error: &syn::Error) -> TokenStream {
    let error = error.to_compile_error();
    let forward = cached_forward(item, &quote!(&[]), &None);
    let mut item = item.clone();
    for member in &mut item.items {
        if let ImplItem::Fn(method) = member {
            remove_roles(&mut method.sig);
        }
    }
    quote!(#item #forward #error)
}

/// Replaces the body of a method by a call; the method is number `place` of `FUNCTIONS`.
fn wrap(item: &mut ImplItem, method: &Method, place: usize) {
    let ImplItem::Fn(original) = item else {
        unreachable!("only functions are wrapped");
    };
    let attributes = wrapped(&original.attrs);
    let vis = &original.vis;
    let (signature, output) = (&method.function.signature, &method.function.output);
    let arguments = method.function.arguments();
    let closure = method.function.closure();
    let training = method.function.is_training();
    *item = ImplItem::Verbatim(quote! {
        #(#attributes)*
        #vis #signature {
            ::torchcache::__private::call_method::<_, #output>(
                self, #place, #training, #arguments, #closure
            )
        }
    });
}

fn cached_forward(
    item: &ItemImpl,
    functions: &TokenStream,
    batch: &Option<TokenStream>,
) -> TokenStream {
    let cfgs = cfgs(&item.attrs);
    let ty = &item.self_ty;
    let (generics, _, bounds) = item.generics.split_for_impl();
    if !has_arguments(ty) {
        return quote! {
            #(#cfgs)*
            impl #generics ::torchcache::__private::CachedForward for #ty #bounds {
                const FUNCTIONS: &'static [::torchcache::__private::Function] = #functions;
                #batch
            }
        };
    }
    let paired = paired::path(ty);
    let definition = definition::of_type("_::TorchcacheImpl", &quote!(TorchcacheImpl));
    // The enum is where the impl is, which the name of `Self` does not say. `allow` makes the
    // constant a use even where the struct itself is never used.
    quote! {
        #(#cfgs)*
        const _: () = {
            enum TorchcacheImpl {}
            impl #generics ::torchcache::__private::CachedForward for #ty #bounds {
                #[allow(dead_code)]
                const FUNCTIONS: &'static [::torchcache::__private::Function] = #paired(#functions);
                const IMPL: ::torchcache::__private::Option<::torchcache::__private::Definition> =
                    ::torchcache::__private::Option::Some(#definition);
                #batch
            }
        };
    }
}

/// The generics with the bounds of the struct's `CachedStruct`, which the impl may not have.
fn with_struct_bounds(item: &ItemImpl) -> Generics {
    let mut generics = item.generics.clone();
    if is_generic(&generics) {
        // `Self`, since `Wrap<'_, M>` is allowed in the header but not in a bound.
        let bound = parse_quote!(Self: ::torchcache::__private::CachedStruct);
        generics.make_where_clause().predicates.push(bound);
    }
    generics
}
