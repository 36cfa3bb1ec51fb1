//! What an impl becomes: the impl with its bodies in calls, and `CachedForward`.

use proc_macro2::{Ident, TokenStream};
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Generics, ImplItem, ItemImpl, parse_quote};

use crate::expand::PAIRED;
use crate::parse::{self, Impl, Method};

/// The expansion of an impl without mistakes.
pub(crate) fn expand(parsed: &Impl) -> TokenStream {
    let mut item = parsed.item.clone();
    item.generics = paired(&item);
    for (index, method) in parsed.methods.iter().enumerate() {
        wrap(&mut item.items[method.place], method, index);
    }
    let constants = parsed
        .methods
        .iter()
        .map(|method| method.function.constant());
    let functions = quote!(&[#(#constants),*]);
    let forward = cached_forward(&item, &functions);
    quote!(#item #forward)
}

/// The impl as it was, the error, and what the struct asks for.
pub(crate) fn fallback(item: &ItemImpl, error: &syn::Error) -> TokenStream {
    let error = error.to_compile_error();
    let forward = cached_forward(item, &quote!(&[]));
    let mut item = item.clone();
    for member in &mut item.items {
        if let ImplItem::Fn(method) = member {
            parse::without_marks(&mut method.sig);
        }
    }
    quote!(#item #forward #error)
}

/// Puts the body of a method into a call.
fn wrap(item: &mut ImplItem, method: &Method, index: usize) {
    let ImplItem::Fn(original) = item else {
        unreachable!("only functions are wrapped");
    };
    let (outer, vis) = (
        original.attrs.iter().cloned().map(parse::outer),
        &original.vis,
    );
    let (signature, output) = (&method.function.signature, &method.function.output);
    let arguments = method.function.arguments();
    let closure = method.function.closure();
    let call = match &method.function.train {
        Some(train) => {
            let train = &train.name;
            quote!(call_method_t::<_, #output>(self, #index, #train, #arguments, #closure))
        }
        None => quote!(call_method::<_, #output>(self, #index, #arguments, #closure)),
    };
    *item = ImplItem::Verbatim(quote! {
        #(#outer)*
        #vis #signature {
            ::torchcache::__private::#call
        }
    });
}

fn cached_forward(item: &ItemImpl, functions: &TokenStream) -> TokenStream {
    let conditions = parse::conditions(&item.attrs);
    let ty = &item.self_ty;
    let (generics, _, bounds) = item.generics.split_for_impl();
    let pair = parse::has_arguments(ty).then(|| {
        let paired = Ident::new(PAIRED, ty.span());
        // `allow` makes the use count even where the struct itself is never used.
        let attribute = quote!(#[allow(dead_code)]);
        (attribute, quote_spanned!(ty.span()=> Self::#paired))
    });
    let (attribute, functions) = match pair {
        Some((attribute, paired)) => (Some(attribute), quote!(#paired(#functions))),
        None => (None, functions.clone()),
    };
    quote! {
        #(#conditions)*
        impl #generics ::torchcache::__private::CachedForward for #ty #bounds {
            #attribute
            const FUNCTIONS: &'static [::torchcache::__private::Function] = #functions;
        }
    }
}

/// The generics, with the struct's own bounds: its `CachedStruct` may ask for more than the impl.
fn paired(item: &ItemImpl) -> Generics {
    let mut generics = item.generics.clone();
    if parse::is_generic(&generics) {
        // Not the type by name: `Wrap<'_, M>` may stand in the header but not in a bound.
        let bound = parse_quote!(Self: ::torchcache::__private::CachedStruct);
        generics.make_where_clause().predicates.push(bound);
    }
    generics
}
