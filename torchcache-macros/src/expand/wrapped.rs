//! The call that replaces a body, and the constant that describes the function. Apart, because
//! methods and free functions are wrapped alike.

use proc_macro2::{Delimiter, Group, Ident, Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::visit_mut::VisitMut;
use syn::{Lifetime, Pat, Type};

use crate::parse::{Argument, Role, Wrapped};

impl Wrapped {
    /// `Arguments::new().with(&xs)`: what the call needs to make the keys.
    pub(crate) fn arguments(&self) -> TokenStream {
        let with = self.arguments.iter().map(|argument| {
            let Argument { name, role, .. } = argument;
            let span = generated(argument);
            match role {
                Role::Rows => quote_spanned!(span=> .with(&#name)),
                Role::Id => quote_spanned!(span=> .with_id(&#name)),
                Role::Shared => quote_spanned!(span=> .with_shared(&#name)),
            }
        });
        quote!(::torchcache::__private::Arguments::new() #(#with)*)
    }

    /// The body as a closure over the rows that must be computed.
    pub(crate) fn closure(&self) -> TokenStream {
        // Hygienic: the body may have a `rows` of its own.
        let rows = Ident::new("rows", Span::mixed_site());
        let held = Ident::new("held", Span::mixed_site());
        let bindings = self.arguments.iter().enumerate();
        let bindings = bindings.map(|(position, argument)| {
            let Argument { name, pattern, .. } = argument;
            let span = generated(argument);
            let holds = quote_spanned! {span=>
                let #held = &mut ::torchcache::__private::Default::default();
            };
            match argument.role {
                Role::Rows => quote_spanned! {span=>
                    #holds
                    let #pattern = #rows.argument(&#name, #position, #held);
                },
                Role::Id => quote_spanned! {span=>
                    #holds
                    let #pattern = #rows.id(&#name, #held);
                },
                Role::Shared => quote_spanned!(span=> let #pattern = #rows.shared(&#name);),
            }
        });
        let train = self
            .train
            .as_ref()
            .and_then(|Argument { name, pattern, .. }| {
                let unchanged = matches!(pattern, Pat::Ident(ident) if ident.mutability.is_none());
                (!unchanged).then(|| quote!(let #pattern = #name;))
            });
        let Self { output, block, .. } = self;
        // One block with the user's braces: a block inside a block is a lint on the user's code.
        let statements = &block.stmts;
        let mut body = Group::new(
            Delimiter::Brace,
            quote!(#(#bindings)* #train #(#statements)*),
        );
        body.set_span(block.brace_token.span.join());
        quote!(|#rows| -> #output #body)
    }

    /// The type of the output outside of the function, where its lifetimes have no name: what it is
    /// made of does not depend on them.
    fn output_for_good(&self) -> Type {
        struct Forget<'a>(Vec<&'a Lifetime>);
        impl VisitMut for Forget<'_> {
            fn visit_lifetime_mut(&mut self, lifetime: &mut Lifetime) {
                if self.0.contains(&&*lifetime) {
                    *lifetime = Lifetime::new("'static", lifetime.span());
                }
            }
        }
        let generics = self.signature.generics.lifetimes();
        let own = generics.map(|parameter| &parameter.lifetime).collect();
        let mut output = self.output.clone();
        Forget(own).visit_type_mut(&mut output);
        output
    }

    /// The value of type `Function`.
    pub(crate) fn constant(&self) -> TokenStream {
        let name = self.signature.ident.unraw().to_string();
        let arguments = self
            .arguments
            .iter()
            .map(|argument| argument.name.unraw().to_string());
        let (code, output) = (&self.code, self.output_for_good());
        quote! {
            ::torchcache::__private::Function {
                name: #name,
                arguments: &[#(#arguments),*],
                code: #code,
                output: {
                    #[allow(unused_imports)]
                    use ::torchcache::__private::Unreturnable as _;
                    ::torchcache::__private::Returned::<#output>::structure
                },
            }
        }
    }
}

/// A token that tells of the argument's type, so that an error about the type points at it: the
/// type's name, or else the argument's. But with the names of generated code.
fn generated(argument: &Argument) -> Span {
    let mut ty = &argument.ty;
    while let Type::Reference(reference) = ty {
        ty = &reference.elem;
    }
    let name = match ty {
        Type::Path(path) => path.path.segments.last().map(|last| last.ident.span()),
        _ => None,
    };
    Span::mixed_site().located_at(name.unwrap_or_else(|| argument.pattern.span()))
}
