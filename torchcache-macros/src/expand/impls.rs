//! The expansion of an impl: the impl with its bodies in calls, a constant for each of them, and
//! `CachedForward`.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::ext::IdentExt;
use syn::{Attribute, FnArg, Generics, ImplItem, ItemImpl, Type, parse_quote};

use crate::expand::{definition, local, options, paired};
use crate::parse::attributes::{Inherited, inherited, is_generic, wrapped};
use crate::parse::impls::{Method, ModuleImpl, has_forward, remove_marks};
use crate::parse::signature;
use crate::runtime::Runtime;
use crate::types::{self, ends_in, ungrouped};

/// The expansion of a checked impl.
pub(crate) fn expand(parsed: &ModuleImpl, runtime: &Runtime) -> TokenStream {
    let mut item = parsed.item.clone();
    item.generics = with_struct_bounds(&item, runtime);
    let lints = inherited(&item.attrs, &[Inherited::Lints]);
    let ty = item.self_ty.clone();
    let generics = item.generics.clone();
    let (generics, _, bounds) = generics.split_for_impl();
    let (mut methods, mut functions) = (Vec::new(), Vec::new());
    for method in &parsed.methods {
        let name = number(method);
        let member = &mut item.items[method.index];
        let attributes = wrap(member, method, name, runtime);
        let own_lints = inherited(&attributes, &[Inherited::Lints]);
        let cfgs = inherited(&attributes, &[Inherited::Cfgs]);
        let of = &method.of;
        let implementation = quote! {
            #runtime::Implementation { of: #of, definition: TORCHCACHE_IMPL }
        };
        let callees: Vec<_> = callees(method, parsed, runtime).collect();
        let options = options::of_function(&method.options, runtime);
        let constant = method
            .function
            .constant(Some(&implementation), &callees, &options, runtime);
        methods.push(quote! {
            #(#cfgs)*
            #(#lints)*
            #(#own_lints)*
            #[automatically_derived]
            impl #generics #runtime::CachedMethod<#name> for #ty #bounds {
                const FUNCTION: &'static #runtime::Function = &#constant;
            }
        });
        functions.push(quote!(#(#cfgs)* #runtime::method::<Self, #name>()));
    }
    let definition = definition::of_type("_::TorchcacheImpl", &quote!(TorchcacheImpl), runtime);
    let forward = parsed.has_forward().then(|| {
        let batch = forward_batch(parsed, runtime);
        cached_forward(&item, &quote!(&[#(#functions),*]), &batch, runtime)
    });
    let paired = paired::usage(&item, runtime);
    let cfgs = inherited(&item.attrs, &[Inherited::Cfgs]);
    // The enum is where the impl is, which the name of `Self` does not say.
    quote! {
        #item
        #(#cfgs)*
        const _: () = {
            enum TorchcacheImpl {}
            const TORCHCACHE_IMPL: #runtime::Definition = #definition;
            #(#methods)*
            #forward
            #(#lints)*
            #paired
        };
    }
}

/// The number of a method among those of its struct: a hash of its name, and of its trait where that counts.
fn number(method: &Method) -> u64 {
    hash(
        &method.of,
        &method.function.signature.ident.unraw().to_string(),
    )
}

/// FNV-1a.
fn hash(of: &str, name: &str) -> u64 {
    let bytes = of.bytes().chain(*b"::").chain(name.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Functions that return the cached methods that the body of `method` names: those of its own impl, and of
/// the impls without a trait, which the compiler looks up.
fn callees(
    method: &Method,
    parsed: &ModuleImpl,
    runtime: &Runtime,
) -> impl Iterator<Item = TokenStream> {
    let import = runtime.import("NoMethod");
    method.callees.iter().map(move |name| {
        let mut methods = parsed.methods.iter();
        let own = methods.find(|it| it.function.signature.ident.unraw() == name.as_str());
        let name = own.map_or_else(|| hash("", name), number);
        quote!({ #import #runtime::MethodProbe::<Self, #name>::function })
    })
}

/// `CachedForward::forward_batch` for an impl of `nn::Module`: tch's `forward_t`, which the default
/// calls, hides the caller from a panic.
fn forward_batch(parsed: &ModuleImpl, runtime: &Runtime) -> Option<TokenStream> {
    let (path, _) = parsed.item.trait_.as_ref()?;
    let is_tensor = |ty| types::is_named(ty, "Tensor");
    // A trait of the user's may have this name.
    let mut methods = parsed.methods.iter();
    let method = methods.find(|method| method.function.signature.ident == "forward")?;
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

/// The impl as written, the errors, and the items that the struct refers to.
pub(crate) fn fallback(item: &ItemImpl, error: &syn::Error, runtime: &Runtime) -> TokenStream {
    let error = error.to_compile_error();
    let cfgs = inherited(&item.attrs, &[Inherited::Cfgs]);
    let forward = has_forward(item).then(|| cached_forward(item, &quote!(&[]), &None, runtime));
    let forward = forward.map(|forward| quote!(#(#cfgs)* #forward));
    let mut item = item.clone();
    for member in &mut item.items {
        if let ImplItem::Fn(method) = member {
            remove_marks(&mut method.attrs);
            signature::remove_marks(&mut method.sig);
        }
    }
    quote!(#item #forward #error)
}

/// Replaces the body of a method by a call. Returns the method's attributes.
fn wrap(item: &mut ImplItem, method: &Method, name: u64, runtime: &Runtime) -> Vec<Attribute> {
    let ImplItem::Fn(original) = item else {
        unreachable!("only functions are wrapped");
    };
    let attributes = wrapped(&original.attrs);
    let vis = &original.vis;
    let (signature, output) = (&method.function.signature, &method.function.output);
    // That of the user's, which a macro may have passed on.
    let module = match &method.function.module {
        Some(module) => module.name.to_token_stream(),
        None => original
            .sig
            .receiver()
            .map(|it| it.self_token)
            .to_token_stream(),
    };
    let arguments = method.function.arguments(runtime);
    let closure = method.function.closure(runtime);
    let training = method.function.is_training(runtime);
    *item = ImplItem::Verbatim(quote! {
        #(#attributes)*
        #vis #signature {
            #runtime::call_method::<_, #output, #name>(
                #module, #training, #arguments, #closure
            )
        }
    });
    attributes
}

fn cached_forward(
    item: &ItemImpl,
    functions: &TokenStream,
    batch: &Option<TokenStream>,
    runtime: &Runtime,
) -> TokenStream {
    let lints = inherited(&item.attrs, &[Inherited::Lints]);
    let ty = &item.self_ty;
    let (generics, _, bounds) = item.generics.split_for_impl();
    quote! {
        #(#lints)*
        #[automatically_derived]
        impl #generics #runtime::OneImplWithForwardPerStruct for #ty #bounds {
            const FUNCTIONS: &'static [&'static #runtime::Function] = #functions;
            #batch
        }
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
