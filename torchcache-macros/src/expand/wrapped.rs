//! The call that replaces a body, and the constant that describes the function, alike for methods
//! and free functions.

use proc_macro2::{Delimiter, Group, Ident, Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::visit_mut::VisitMut;
use syn::{Lifetime, Pat, Type};

use crate::build_inputs::BuildInput;
use crate::parse::signature::{ArgumentRole, WrappedArgument, WrappedFn};

impl WrappedFn {
    /// `Arguments::new().with(&xs)`: the arguments that keys are made of.
    pub(crate) fn arguments(&self) -> TokenStream {
        let with = self.arguments.iter().map(|argument| {
            let WrappedArgument { name, role, .. } = argument;
            let span = type_span(argument);
            match role {
                ArgumentRole::Rows => quote_spanned!(span=> .with(&#name)),
                ArgumentRole::Id => quote_spanned!(span=> .with_id(&#name)),
                ArgumentRole::Shared => quote_spanned!(span=> .with_shared(&#name)),
            }
        });
        quote!(::torchcache::__private::Arguments::new() #(#with)*)
    }

    /// Whether an argument of the call says that the module is being trained.
    pub(crate) fn is_training(&self) -> TokenStream {
        let names = self.training.iter().map(|argument| &argument.name);
        match self.training.len() {
            0 => quote!(false),
            _ => quote!(#(#names)||*),
        }
    }

    /// The body as a closure over the rows to compute.
    pub(crate) fn closure(&self) -> TokenStream {
        // Hygienic, since the body may have a variable `rows`.
        let rows = Ident::new("rows", Span::mixed_site());
        let held = Ident::new("held", Span::mixed_site());
        let bindings = self.arguments.iter().enumerate();
        let bindings = bindings.map(|(position, argument)| {
            let WrappedArgument { name, pattern, .. } = argument;
            let span = type_span(argument);
            let holds = quote_spanned! {span=>
                let #held = &mut ::torchcache::__private::Default::default();
            };
            match argument.role {
                ArgumentRole::Rows => quote_spanned! {span=>
                    #holds
                    let #pattern = #rows.argument(&#name, #position, #held);
                },
                ArgumentRole::Id => quote_spanned! {span=>
                    #holds
                    let #pattern = #rows.id(&#name, #held);
                },
                ArgumentRole::Shared => quote_spanned!(span=> let #pattern = #rows.shared(&#name);),
            }
        });
        let training = self
            .training
            .iter()
            .map(|WrappedArgument { name, pattern, .. }| {
                let is_unchanged =
                    matches!(pattern, Pat::Ident(ident) if ident.mutability.is_none());
                (!is_unchanged).then(|| quote!(let #pattern = #name;))
            });
        let Self { output, block, .. } = self;
        // One block with the user's braces: a nested block would be linted as the user's code.
        let statements = &block.stmts;
        let mut body = Group::new(
            Delimiter::Brace,
            quote!(#(#bindings)* #(#training)* #(#statements)*),
        );
        body.set_span(block.brace_token.span.join());
        quote!(|#rows| -> #output #body)
    }

    /// The output's type with `'static` for the function's lifetimes, for use outside the function.
    fn static_output(&self) -> Type {
        struct MakeStatic<'a>(Vec<&'a Lifetime>);
        impl VisitMut for MakeStatic<'_> {
            fn visit_lifetime_mut(&mut self, lifetime: &mut Lifetime) {
                if self.0.contains(&&*lifetime) {
                    *lifetime = Lifetime::new("'static", lifetime.span());
                }
            }
        }
        let generics = self.signature.generics.lifetimes();
        let own = generics.map(|parameter| &parameter.lifetime).collect();
        let mut output = self.output.clone();
        MakeStatic(own).visit_type_mut(&mut output);
        output
    }

    /// The value of type `Function`.
    pub(crate) fn constant(&self) -> TokenStream {
        let name = self.signature.ident.unraw().to_string();
        let arguments = self
            .arguments
            .iter()
            .map(|argument| argument.name.unraw().to_string());
        let (code, output) = (&self.code, self.static_output());
        let inputs = self.inputs.iter().map(BuildInput::expand);
        let inputs = match self.inputs.len() {
            0 => quote!(&[]),
            // A predicate that the user's code allows is not reported here either.
            _ => quote!({
                #[allow(unexpected_cfgs)]
                const INPUTS: &[::torchcache::__private::BuildInput] = &[#(#inputs),*];
                INPUTS
            }),
        };
        quote! {
            ::torchcache::__private::Function {
                name: #name,
                arguments: &[#(#arguments),*],
                code: #code,
                inputs: #inputs,
                output: {
                    #[allow(unused_imports)]
                    use ::torchcache::__private::Unreturnable as _;
                    ::torchcache::__private::Returned::<#output>::structure
                },
            }
        }
    }
}

/// The span of the name of the argument's type, or else of the argument, so that an error about the
/// type is shown there; with the hygiene of generated code.
fn type_span(argument: &WrappedArgument) -> Span {
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
