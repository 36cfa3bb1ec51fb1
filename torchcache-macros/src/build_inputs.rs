//! What the compiler puts into a body from outside of it: the values of `cfg`, environment variables
//! and files. The constant that describes the function repeats them, so that the compiler evaluates
//! them there as it does in the body.
//!
//! The tokens of other macros are searched as well. What a macro expands to cannot be seen, nor an
//! invocation with a variable of a macro that the body itself defines.

use proc_macro2::{Delimiter, Group, Ident, Span, TokenStream, TokenTree};
use quote::{ToTokens, quote, quote_spanned};
use syn::parse::{ParseStream, Parser};
use syn::token::Brace;
use syn::visit::{self, Visit};
use syn::{Attribute, Block, Expr, Macro, Meta, Signature, Token};

use crate::canonical;
use crate::runtime::Runtime;

/// A value that the compiler puts into a body.
pub(crate) struct BuildInput {
    kind: InputKind,
    /// The tokens of the invocation.
    arguments: TokenStream,
    /// The predicates without which the compiler removes the invocation. Only those of a file count:
    /// it may be missing then, while the others can be evaluated always.
    guards: Vec<TokenStream>,
    /// Where the invocation is: the path of a file is relative to it.
    span: Span,
}

#[derive(Clone, Copy, PartialEq)]
enum InputKind {
    Cfg,
    Variable,
    File,
}

/// The values that the compiler puts into a function, each once.
pub(crate) fn find(signature: &Signature, block: &Block) -> Vec<BuildInput> {
    let mut search = Search::default();
    search.visit_signature(signature);
    search.visit_block(block);
    let mut inputs: Vec<BuildInput> = Vec::new();
    for input in search.found {
        if !inputs.iter().any(|known| known.is_same(&input)) {
            inputs.push(input);
        }
    }
    inputs
}

impl BuildInput {
    /// The value of type `BuildInput`.
    pub(crate) fn expand(&self, runtime: &Runtime) -> TokenStream {
        let Self {
            arguments, guards, ..
        } = self;
        let name = self.name();
        // Of the invocation in the body, where a relative path begins.
        let span = Span::call_site().located_at(self.span);
        let value = match self.kind {
            InputKind::Cfg => quote_spanned!(span=> Cfg(#runtime::cfg!(#arguments))),
            // `env!` is an error where the variable is not set, which the body may avoid.
            InputKind::Variable => {
                quote_spanned!(span=> Variable(#runtime::option_env!(#arguments)))
            }
            InputKind::File => quote_spanned!(span=> File(#runtime::include_bytes!(#arguments))),
        };
        quote! {
            #(#[cfg(#guards)])*
            #runtime::BuildInput { name: #name, value: #runtime::BuildValue::#value }
        }
    }

    /// The invocation, for messages.
    fn name(&self) -> String {
        let name = match self.kind {
            InputKind::Cfg => "cfg",
            InputKind::Variable => "env",
            InputKind::File => "include",
        };
        format!("{name}!({})", canonical::text(self.arguments.clone()))
    }

    fn is_same(&self, other: &Self) -> bool {
        let texts = |guards: &[TokenStream]| -> Vec<String> {
            guards.iter().cloned().map(canonical::text).collect()
        };
        self.name() == other.name() && texts(&self.guards) == texts(&other.guards)
    }
}

#[derive(Default)]
struct Search {
    /// The predicates that the present tokens depend on.
    guards: Vec<TokenStream>,
    found: Vec<BuildInput>,
}

impl Search {
    fn add(&mut self, kind: InputKind, arguments: TokenStream, span: Span) {
        let arguments = without_invisible_groups(arguments);
        // The variable of a macro that the body defines has no value outside of that macro.
        if has_macro_variable(&arguments) {
            return;
        }
        let mut guards = match kind {
            InputKind::Cfg | InputKind::Variable => Vec::new(),
            InputKind::File => self.guards.clone(),
        };
        // A statement and the expression that it consists of have the same attributes.
        guards.dedup_by_key(|guard| canonical::text(guard.clone()));
        self.found.push(BuildInput {
            kind,
            arguments,
            guards,
            span,
        });
    }

    fn add_cfg(&mut self, predicate: &TokenStream) {
        self.add(InputKind::Cfg, predicate.clone(), Span::call_site());
    }

    fn guarded(&mut self, guards: Vec<TokenStream>, search: impl FnOnce(&mut Self)) {
        let outside = self.guards.len();
        self.guards.extend(guards);
        search(self);
        self.guards.truncate(outside);
    }

    /// Searches a node; its `#[cfg]`s decide whether it is compiled.
    fn node(&mut self, node: &impl ToTokens, search: impl FnOnce(&mut Self)) {
        let tokens = node.to_token_stream();
        let first = tokens.clone().into_iter().next();
        let has_attributes = first.is_some_and(|first| is_punct(&first, '#'));
        let outer = |input: ParseStream<'_>| {
            let attributes = input.call(Attribute::parse_outer)?;
            input.parse::<TokenStream>()?;
            Ok(attributes)
        };
        let attributes = match has_attributes {
            true => outer.parse2(tokens).unwrap_or_default(),
            false => Vec::new(),
        };
        let guards = attributes.iter().flat_map(|it| guards(&it.meta)).collect();
        self.guarded(guards, search);
    }

    /// The part of an attribute inside the brackets.
    fn attribute(&mut self, meta: &Meta) {
        let Meta::List(list) = meta else {
            return visit::visit_meta(self, meta);
        };
        if list.path.is_ident("cfg") {
            self.add_cfg(&list.tokens);
        } else if list.path.is_ident("cfg_attr") {
            let (predicate, attributes) = conditional(&list.tokens);
            self.add_cfg(&predicate);
            attributes.iter().for_each(|meta| self.attribute(meta));
        } else {
            self.visit_token_stream(&list.tokens);
        }
    }

    /// The invocation of a macro; `is_standard` where its path may be that of the standard library.
    fn invocation(&mut self, name: &Ident, is_standard: bool, tokens: TokenStream) {
        let text = name.to_string();
        match text.as_str() {
            "cfg" if is_standard => self.add(InputKind::Cfg, tokens, name.span()),
            "env" | "option_env" if is_standard => {
                // `env!` takes a message as well.
                let [variable, ..] = &split(tokens)[..] else {
                    return;
                };
                self.add(InputKind::Variable, variable.clone(), name.span());
            }
            "include" | "include_str" | "include_bytes" if is_standard => {
                self.add(InputKind::File, tokens, name.span());
            }
            "stringify" if is_standard => {}
            "cfg_if" => match cfg_if.parse2(tokens.clone()) {
                Ok(branches) => self.branches(branches),
                Err(_) => self.visit_token_stream(&tokens),
            },
            "cfg_select" => match cfg_select.parse2(tokens.clone()) {
                Ok(branches) => self.branches(branches),
                Err(_) => self.visit_token_stream(&tokens),
            },
            _ => self.code(tokens),
        }
    }

    /// The branches of a macro that compiles the first one whose predicate holds.
    fn branches(&mut self, branches: Vec<Branch>) {
        let mut guards = Vec::new();
        for Branch { predicate, tokens } in branches {
            self.add_cfg(&predicate);
            let mut all = guards.clone();
            all.push(predicate.clone());
            self.guarded(all, |search| search.code(tokens));
            guards.push(quote!(not(#predicate)));
        }
    }

    /// Tokens that may be statements.
    fn code(&mut self, tokens: TokenStream) {
        match Block::parse_within.parse2(tokens.clone()) {
            Ok(statements) => statements.iter().for_each(|it| self.visit_stmt(it)),
            Err(_) => self.visit_token_stream(&tokens),
        }
    }
}

/// Visits of nodes that may have attributes.
macro_rules! nodes {
    ($($visit:ident: $node:ident,)*) => {$(
        fn $visit(&mut self, node: &'ast syn::$node) {
            self.node(node, |search| visit::$visit(search, node));
        }
    )*};
}

impl<'ast> Visit<'ast> for Search {
    nodes! {
        visit_stmt: Stmt,
        visit_expr: Expr,
        visit_arm: Arm,
        visit_field_value: FieldValue,
        visit_field_pat: FieldPat,
        visit_pat: Pat,
        visit_item: Item,
        visit_impl_item: ImplItem,
        visit_trait_item: TraitItem,
        visit_foreign_item: ForeignItem,
        visit_variant: Variant,
        visit_field: Field,
        visit_fn_arg: FnArg,
        visit_generic_param: GenericParam,
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        self.attribute(&attribute.meta);
    }

    fn visit_meta_name_value(&mut self, meta: &'ast syn::MetaNameValue) {
        if !meta.path.is_ident("doc") {
            visit::visit_meta_name_value(self, meta);
        }
    }

    fn visit_macro(&mut self, invocation: &'ast Macro) {
        let mut path: Vec<Ident> = idents(&invocation.path);
        if let Some(name) = path.pop() {
            self.invocation(&name, is_standard(&path), invocation.tokens.clone());
        }
    }

    /// Tokens that are not parsed: of macros, attributes, and syntax that is unknown to `syn`.
    fn visit_token_stream(&mut self, tokens: &'ast TokenStream) {
        let tokens: Vec<TokenTree> = tokens.clone().into_iter().collect();
        let mut path = Vec::new();
        let mut rest = &tokens[..];
        while let [first, after @ ..] = rest {
            rest = after;
            match (first, after) {
                (TokenTree::Ident(name), [bang, TokenTree::Group(group), after @ ..])
                    if is_punct(bang, '!') =>
                {
                    rest = after;
                    self.invocation(name, is_standard(&path), group.stream());
                }
                (TokenTree::Ident(name), [first, second, ..])
                    if is_punct(first, ':') && is_punct(second, ':') =>
                {
                    path.push(name.clone());
                    rest = &after[2..];
                    continue;
                }
                (hash, [TokenTree::Group(group), after @ ..]) if is_punct(hash, '#') => {
                    rest = after;
                    self.unparsed_attribute(group);
                }
                (hash, [bang, TokenTree::Group(group), after @ ..])
                    if is_punct(hash, '#') && is_punct(bang, '!') =>
                {
                    rest = after;
                    self.unparsed_attribute(group);
                }
                (TokenTree::Group(group), _) => self.visit_token_stream(&group.stream()),
                _ => {}
            }
            path.clear();
        }
    }
}

impl Search {
    fn unparsed_attribute(&mut self, group: &Group) {
        match syn::parse2::<Meta>(group.stream()) {
            Ok(meta) => self.attribute(&meta),
            Err(_) => self.visit_token_stream(&group.stream()),
        }
    }
}

/// The predicates that an attribute removes its node without.
fn guards(meta: &Meta) -> Vec<TokenStream> {
    let Meta::List(list) = meta else {
        return Vec::new();
    };
    if list.path.is_ident("cfg") {
        return vec![list.tokens.clone()];
    }
    if !list.path.is_ident("cfg_attr") {
        return Vec::new();
    }
    let (predicate, attributes) = conditional(&list.tokens);
    let guards = attributes.iter().flat_map(guards);
    guards
        .map(|guard| quote!(any(not(#predicate), #guard)))
        .collect()
}

/// The predicate and the attributes of a `cfg_attr`.
pub(crate) fn conditional(tokens: &TokenStream) -> (TokenStream, Vec<Meta>) {
    let mut parts = split(tokens.clone()).into_iter();
    let predicate = parts.next().unwrap_or_default();
    (
        predicate,
        parts.filter_map(|it| syn::parse2(it).ok()).collect(),
    )
}

/// A branch of `cfg_if!` or `cfg_select!`, without the predicates of those before it.
struct Branch {
    predicate: TokenStream,
    tokens: TokenStream,
}

/// `if #[cfg(…)] { … } else if #[cfg(…)] { … } else { … }`
fn cfg_if(input: ParseStream<'_>) -> syn::Result<Vec<Branch>> {
    let mut branches = Vec::new();
    loop {
        let predicate = match input.parse::<Option<Token![if]>>()? {
            Some(_) => {
                let attributes = input.call(Attribute::parse_outer)?;
                let guards = attributes.iter().flat_map(|it| guards(&it.meta));
                quote!(all(#(#guards),*))
            }
            None => quote!(all()),
        };
        let tokens = input.parse::<Group>()?.stream();
        branches.push(Branch { predicate, tokens });
        if input.parse::<Option<Token![else]>>()?.is_none() {
            return Ok(branches);
        }
    }
}

/// `predicate => { … } predicate => expression, _ => { … }`
fn cfg_select(input: ParseStream<'_>) -> syn::Result<Vec<Branch>> {
    let mut branches = Vec::new();
    while !input.is_empty() {
        let mut predicate = TokenStream::new();
        while !input.peek(Token![=>]) {
            predicate.extend([input.parse::<TokenTree>()?]);
        }
        input.parse::<Token![=>]>()?;
        let tokens = if input.peek(Brace) {
            input.parse::<Group>()?.stream()
        } else {
            input.parse::<Expr>()?.to_token_stream()
        };
        input.parse::<Option<Token![,]>>()?;
        if predicate.to_string() == "_" {
            predicate = quote!(all());
        }
        branches.push(Branch { predicate, tokens });
    }
    Ok(branches)
}

/// The parts between commas.
pub(crate) fn split(tokens: TokenStream) -> Vec<TokenStream> {
    let mut parts = vec![TokenStream::new()];
    for token in tokens {
        match parts.last_mut() {
            Some(part) if !is_punct(&token, ',') => part.extend([token]),
            _ => parts.push(TokenStream::new()),
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
}

fn idents(path: &syn::Path) -> Vec<Ident> {
    let segments = path.segments.iter();
    segments.map(|segment| segment.ident.clone()).collect()
}

/// Whether macros under a path may be those of the standard library: `cfg!`, `std::cfg!`.
fn is_standard(path: &[Ident]) -> bool {
    match path {
        [] => true,
        [first] => first == "std" || first == "core",
        _ => false,
    }
}

fn is_punct(token: &TokenTree, character: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == character)
}

fn has_macro_variable(tokens: &TokenStream) -> bool {
    tokens.clone().into_iter().any(|token| match token {
        TokenTree::Group(group) => has_macro_variable(&group.stream()),
        token => is_punct(&token, '$'),
    })
}

/// The tokens without the groups around the values of macro variables, which some of the compiler's
/// macros refuse.
fn without_invisible_groups(tokens: TokenStream) -> TokenStream {
    let flattened = tokens.into_iter().map(|token| match token {
        TokenTree::Group(group) => {
            let inner = without_invisible_groups(group.stream());
            if group.delimiter() == Delimiter::None {
                return inner;
            }
            let mut visible = Group::new(group.delimiter(), inner);
            visible.set_span(group.span());
            TokenTree::Group(visible).into()
        }
        token => token.into(),
    });
    flattened.collect()
}
