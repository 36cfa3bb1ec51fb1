//! The call that replaces a body, and the constant that describes the function, alike for methods
//! and free functions.

use proc_macro2::{Delimiter, Group, Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Pat, Type};

use crate::expand::local;
use crate::parse::signature::{ArgumentRole, WrappedArgument, WrappedFn};
use crate::runtime::Runtime;
use crate::types::{self, ungrouped};

impl WrappedFn {
    /// `|digests| Arguments::of_call(digests).with(&xs)`: the arguments that keys are made of.
    pub(crate) fn arguments(&self, runtime: &Runtime) -> TokenStream {
        let with = self.arguments.iter().map(|argument| {
            let WrappedArgument {
                name,
                role,
                padding,
                ..
            } = argument;
            let span = type_span(argument);
            let at = runtime.at(span);
            let skipped = argument
                .is_skipped
                .then(|| quote_spanned!(span=> .skipped()));
            let with = match role {
                ArgumentRole::Rows if padding.is_some() => {
                    quote_spanned!(span=> .with_padded(&#name, const { #padding }))
                }
                ArgumentRole::Rows => {
                    let probe = argument.probe();
                    quote_spanned!(span=> .with(#at::#probe::new(&#name).torchcache_argument()))
                }
                ArgumentRole::Id { any_shape } => {
                    let any_shape = any_shape.then(|| quote_spanned!(span=> .any_shape()));
                    quote_spanned!(span=> .with_id(&#name)#any_shape)
                }
                ArgumentRole::Shared => quote_spanned!(span=> .with_shared(&#name)),
            };
            quote!(#skipped #with)
        });
        let digests = local("digests");
        let none = quote!(#runtime::Arguments::of_call(#digests));
        if !self.has_conditions() {
            return quote!(|#digests| #none #(#with)*);
        }
        let all = local("arguments");
        let cfgs = self.arguments.iter().map(|argument| &argument.cfgs);
        quote! {|#digests| {
            let #all = #none;
            #(#(#cfgs)* let #all = #all #with;)*
            #all
        }}
    }

    fn has_conditions(&self) -> bool {
        let all = self.arguments.iter().chain(&self.training);
        all.into_iter().any(|argument| !argument.cfgs.is_empty())
    }

    /// The number of arguments before the one at `position`.
    fn position(&self, position: usize, runtime: &Runtime) -> TokenStream {
        if !self.has_conditions() {
            return position.to_token_stream();
        }
        let before = self.arguments[..position].iter();
        let before = before.map(|WrappedArgument { cfgs, .. }| quote!(#(#cfgs)* ()));
        quote!(#runtime::length(&[#(#before),*]))
    }

    /// Whether an argument of the call says that the module is being trained.
    pub(crate) fn is_training(&self, runtime: &Runtime) -> TokenStream {
        let named = self.training.iter().map(|argument| {
            let WrappedArgument { name, cfgs, .. } = argument;
            quote!(#(#cfgs)* #name)
        });
        let probed = self.flags.iter().map(|&position| {
            let WrappedArgument { name, cfgs, .. } = &self.arguments[position];
            quote!(#(#cfgs)* #runtime::FlagProbe::new(&#name).is_true())
        });
        let all: Vec<_> = named.chain(probed).collect();
        match &all[..] {
            [] => quote!(false),
            [one] if !self.has_conditions() => one.clone(),
            _ => quote!(#runtime::any(&[#(#all),*])),
        }
    }

    /// The body as a closure over the rows to compute.
    pub(crate) fn closure(&self, runtime: &Runtime) -> TokenStream {
        let [rows, held] = ["rows", "held"].map(local);
        let bindings = self.arguments.iter().enumerate();
        let bindings = bindings.map(|(position, argument)| {
            let WrappedArgument {
                name,
                pattern,
                cfgs,
                lints,
                ..
            } = argument;
            let position = self.position(position, runtime);
            let span = type_span(argument);
            let at = runtime.at(span);
            let holds = quote_spanned! {span=>
                #(#cfgs)*
                let #held = &mut #at::Default::default();
            };
            match argument.role {
                ArgumentRole::Rows if argument.padding.is_some() => quote_spanned! {span=>
                    #holds
                    #(#cfgs)*
                    #(#lints)*
                    let #pattern = #rows.argument(&#name, #position, #held);
                },
                ArgumentRole::Rows => {
                    let probe = argument.probe();
                    quote_spanned! {span=>
                        #holds
                        #(#cfgs)*
                        #(#lints)*
                        let #pattern =
                            #at::#probe::new(&#name).torchcache_rows(#rows, #position, #held);
                    }
                }
                ArgumentRole::Id { .. } => quote_spanned! {span=>
                    #holds
                    #(#cfgs)*
                    #(#lints)*
                    let #pattern = #rows.id(&#name, #held);
                },
                ArgumentRole::Shared => quote_spanned! {span=>
                    #(#cfgs)*
                    #(#lints)*
                    let #pattern = #rows.shared(&#name);
                },
            }
        });
        let training = self.module.iter().chain(&self.training).map(|argument| {
            let WrappedArgument {
                name,
                pattern,
                cfgs,
                lints,
                ..
            } = argument;
            let is_unchanged = matches!(pattern, Pat::Ident(ident) if ident.mutability.is_none());
            (!is_unchanged).then(|| quote!(#(#cfgs)* #(#lints)* let #pattern = #name;))
        });
        let Self { block, .. } = self;
        // One block with the user's braces: a nested block would be linted as the user's code.
        let statements = &block.stmts;
        let body = self.body(quote!(#(#bindings)* #(#training)* #(#statements)*));
        let Self { output, .. } = self;
        quote!(|#rows| -> #output #body)
    }

    /// `content` in the braces of the body as written: lints skip an item that ends in generated code.
    pub(crate) fn body(&self, content: TokenStream) -> Group {
        let mut body = Group::new(Delimiter::Brace, content);
        body.set_span(self.block.brace_token.span.join());
        body
    }

    /// The value of type `Function`. `implementation`: the impl of a method. `callees`: functions that return
    /// other methods.
    pub(crate) fn constant(
        &self,
        implementation: Option<&TokenStream>,
        callees: &[TokenStream],
        options: &TokenStream,
        runtime: &Runtime,
    ) -> TokenStream {
        let name = self.signature.ident.unraw().to_string();
        let arguments = self.arguments.iter().map(WrappedArgument::shown_name);
        let code = &self.code;
        let implementation = match implementation {
            Some(implementation) => quote!(Some(#implementation)),
            None => quote!(None),
        };
        let inputs = self.inputs.iter().map(|input| input.expand(runtime));
        let inputs = match self.inputs.len() {
            0 => quote!(&[]),
            // Where the body says something about predicates, what it allows is not reported here either.
            _ => {
                let mut words = self.code.split(' ');
                let allow = words
                    .any(|word| word == "unexpected_cfgs")
                    .then(|| quote!(#[allow(unexpected_cfgs)]));
                quote!({
                    #allow
                    const INPUTS: &[#runtime::BuildInput] = &[#(#inputs),*];
                    INPUTS
                })
            }
        };
        quote! {
            #runtime::Function {
                name: #name,
                implementation: #runtime::Option::#implementation,
                arguments: &[#(#arguments),*],
                code: #code,
                inputs: #inputs,
                callees: &[#(#callees),*],
                options: #options,
            }
        }
    }
}

/// The span of the name of the argument's type, or else of the argument, so that an error about the
/// type is shown there; with the hygiene of generated code.
fn type_span(argument: &WrappedArgument) -> Span {
    let mut ty = ungrouped(&argument.ty);
    while let Type::Reference(reference) = ty {
        ty = ungrouped(&reference.elem);
    }
    let last = types::path(ty).and_then(|path| path.segments.last());
    let name = last.map(|last| last.ident.span());
    Span::mixed_site().located_at(name.unwrap_or_else(|| argument.pattern.span()))
}
