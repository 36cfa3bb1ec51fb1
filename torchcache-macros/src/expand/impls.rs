//! The expansion of an impl: the impl with its bodies in calls, and `CachedForward`.

use proc_macro2::TokenStream;
use quote::quote;
use syn::ext::IdentExt;
use syn::{Attribute, FnArg, Generics, ImplItem, ItemImpl, Type, parse_quote};

use crate::expand::{definition, local, paired};
use crate::parse::attributes::{Inherited, inherited, is_generic, wrapped};
use crate::parse::impls::{Method, ModuleImpl, has_arguments};
use crate::parse::signature::remove_roles;
use crate::runtime::Runtime;
use crate::types::{self, ends_in, ungrouped};

/// The expansion of a checked impl.
pub(crate) fn expand(parsed: &ModuleImpl, runtime: &Runtime) -> TokenStream {
    let mut item = parsed.item.clone();
    item.generics = with_struct_bounds(&item, runtime);
    let mut lints = inherited(&item.attrs, &[Inherited::Lints]);
    let mut functions = Vec::new();
    for method in &parsed.methods {
        let member = &mut item.items[method.index];
        let attributes = wrap(member, method, runtime);
        lints.extend(inherited(&attributes, &[Inherited::Lints]));
        let cfgs = inherited(&attributes, &[Inherited::Cfgs]);
        let constant = method.function.constant(runtime);
        functions.push(quote!(#(#cfgs)* #constant));
    }
    let functions = quote!(&[#(#functions),*]);
    let batch = forward_batch(parsed, runtime);
    let forward = cached_forward(&item, &lints, &functions, &batch, runtime);
    quote!(#item #forward)
}

/// `CachedForward::forward_batch` for an impl of `nn::Module`: tch's `forward_t`, which the default
/// calls, hides the caller from a panic.
fn forward_batch(parsed: &ModuleImpl, runtime: &Runtime) -> Option<TokenStream> {
    let (path, _) = parsed.item.trait_.as_ref()?;
    let is_tensor = |ty| types::is_named(ty, "Tensor");
    // A trait of the user's may have this name.
    let [method] = &parsed.methods[..] else {
        return None;
    };
    let signature = &method.function.signature;
    let takes_a_batch = match signature.inputs.last()? {
        FnArg::Typed(typed) => match ungrouped(&typed.ty) {
            Type::Reference(reference) => is_tensor(&reference.elem),
            _ => false,
        },
        FnArg::Receiver(_) => false,
    };
    let is_module = ends_in(path, "Module")
        && signature.inputs.len() == 2
        && takes_a_batch
        && is_tensor(&method.function.output);
    let xs = local("xs");
    is_module.then(|| {
        quote! {
            fn forward_batch(&self, #xs: &#runtime::Tensor) -> #runtime::Tensor
            where
                Self: #runtime::ModuleT,
            {
                <Self as #path>::forward(self, #xs)
            }
        }
    })
}

/// The impl as written, the errors, and the item that the struct refers to.
pub(crate) fn fallback(item: &ItemImpl, error: &syn::Error, runtime: &Runtime) -> TokenStream {
    let error = error.to_compile_error();
    let lints = inherited(&item.attrs, &[Inherited::Lints]);
    let forward = cached_forward(item, &lints, &quote!(&[]), &None, runtime);
    let mut item = item.clone();
    for member in &mut item.items {
        if let ImplItem::Fn(method) = member {
            remove_roles(&mut method.sig);
        }
    }
    quote!(#item #forward #error)
}

/// Replaces the body of a method by a call. Returns the method's attributes.
fn wrap(item: &mut ImplItem, method: &Method, runtime: &Runtime) -> Vec<Attribute> {
    let ImplItem::Fn(original) = item else {
        unreachable!("only functions are wrapped");
    };
    let attributes = wrapped(&original.attrs);
    let vis = &original.vis;
    let (signature, output) = (&method.function.signature, &method.function.output);
    let name = signature.ident.unraw().to_string();
    // That of the user's, which a macro may have passed on.
    let module = original.sig.receiver().map(|receiver| receiver.self_token);
    let arguments = method.function.arguments(runtime);
    let closure = method.function.closure(runtime);
    let training = method.function.is_training(runtime);
    *item = ImplItem::Verbatim(quote! {
        #(#attributes)*
        #vis #signature {
            #runtime::call_method::<_, #output>(
                #module, #name, #training, #arguments, #closure
            )
        }
    });
    attributes
}

fn cached_forward(
    item: &ItemImpl,
    lints: &[Attribute],
    functions: &TokenStream,
    batch: &Option<TokenStream>,
    runtime: &Runtime,
) -> TokenStream {
    let cfgs = inherited(&item.attrs, &[Inherited::Cfgs]);
    let ty = &item.self_ty;
    let (generics, _, bounds) = item.generics.split_for_impl();
    if !has_arguments(ty) {
        let check = paired::usage_of_alias(item, runtime);
        return quote! {
            #(#cfgs)*
            #(#lints)*
            #[automatically_derived]
            impl #generics #runtime::OneAnnotatedImplPerStruct for #ty #bounds {
                const FUNCTIONS: &'static [#runtime::Function] = { #check #functions };
                #batch
            }
        };
    }
    let paired = paired::usage(item, runtime);
    let definition = definition::of_type("_::TorchcacheImpl", &quote!(TorchcacheImpl), runtime);
    // The enum is where the impl is, which the name of `Self` does not say.
    quote! {
        #(#cfgs)*
        const _: () = {
            enum TorchcacheImpl {}
            #(#lints)*
            #[automatically_derived]
            impl #generics #runtime::OneAnnotatedImplPerStruct for #ty #bounds {
                const FUNCTIONS: &'static [#runtime::Function] = #functions;
                const IMPL: #runtime::Option<#runtime::Definition> =
                    #runtime::Option::Some(#definition);
                #batch
            }
            #(#lints)*
            #paired
        };
    }
}

/// The generics with the bounds of the struct's `CachedStruct`, which the impl may not have.
fn with_struct_bounds(item: &ItemImpl, runtime: &Runtime) -> Generics {
    let mut generics = item.generics.clone();
    if is_generic(&generics) {
        // `Self`, since `Wrap<'_, M>` is allowed in the header but not in a bound.
        let bound = parse_quote!(Self: #runtime::EveryFieldImplementsFingerprint);
        generics.make_where_clause().predicates.push(bound);
    }
    generics
}
