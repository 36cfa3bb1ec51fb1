//! What the compiler puts into a body: which invocations are found, and under which `cfg`s.

use proc_macro2::TokenStream;

use super::tokens;
use crate::build_inputs;
use crate::runtime::Runtime;

/// The name of each value that the compiler puts into the body, after the predicates of a file.
fn found(body: &str) -> Vec<String> {
    let item: syn::ItemFn =
        syn::parse2(tokens(&format!("fn f(xs: &T) -> T {{ {body} }}"))).unwrap();
    let inputs = build_inputs::find(&item.sig, &item.block);
    inputs.iter().map(shown).collect()
}

fn shown(input: &build_inputs::BuildInput) -> String {
    let element = input.expand(&Runtime::locate(None));
    let array: syn::ExprArray = syn::parse_quote!([#element]);
    let syn::Expr::Struct(expanded) = &array.elems[0] else {
        panic!("a struct")
    };
    let text = |tokens: &TokenStream| tokens.to_string().replace(' ', "");
    let guards = expanded.attrs.iter().map(|attribute| {
        let list = attribute.meta.require_list().unwrap();
        format!("{} => ", text(&list.tokens))
    });
    let guards: String = guards.collect();
    let syn::Expr::Lit(name) = &expanded.fields[0].expr else {
        panic!("a name")
    };
    let syn::Lit::Str(name) = &name.lit else {
        panic!("a name")
    };
    format!("{guards}{}", name.value().replace(' ', ""))
}

#[test]
fn invocations_of_the_compilers_macros_are_found() {
    for (body, expected) in [
        ("xs * if cfg!(a) { 1 } else { 2 }", "cfg!(a)"),
        ("xs * std::cfg!(all(a, b = \"c\"))", "cfg!(all(a,b=\"c\"))"),
        ("xs * env!(\"A\")", "env!(\"A\")"),
        ("xs * ::core::env!(\"A\", \"a message\")", "env!(\"A\")"),
        ("xs * option_env!(\"A\")", "env!(\"A\")"),
        ("xs * include_str!(\"a\")", "include!(\"a\")"),
        (
            "xs * include!(concat!(env!(\"A\"), \"/a\"))",
            "include!(concat!(env!(\"A\"),\"/a\"))",
        ),
        ("let f = |x| x * cfg!(a); f(xs)", "cfg!(a)"),
        ("const A: &str = env!(\"A\"); xs", "env!(\"A\")"),
        ("fn g() { env!(\"A\") } xs", "env!(\"A\")"),
        (
            "loop { break xs * concat!(env!(\"A\"), 1); }",
            "env!(\"A\")",
        ),
        // In the tokens of other macros.
        ("xs * vec![1, env!(\"A\"); 2][0]", "env!(\"A\")"),
        ("m!(a => { std::env!(\"A\") })", "env!(\"A\")"),
        ("a::m! { b(#[cfg(a)] c) }", "cfg!(a)"),
        ("m!([#[cfg_attr(a, cfg(b))] c] => d)", "cfg!(a),cfg!(b)"),
        (
            "macro_rules! m { () => { env!(\"A\") } } xs * m!()",
            "env!(\"A\")",
        ),
        // Attributes.
        ("#[cfg(a)] return xs; xs", "cfg!(a)"),
        ("#[cfg(a)] m!(xs); xs", "cfg!(a)"),
        ("match xs { #[cfg(a)] 1 => 2, _ => 3 }", "cfg!(a)"),
        ("S { #[cfg(a)] b: c, ..xs }", "cfg!(a)"),
        ("[#[cfg(a)] xs, ys]", "cfg!(a)"),
        ("g(#[cfg(a)] xs, ys)", "cfg!(a)"),
        ("let S { #[cfg(a)] b, .. } = xs; b", "cfg!(a)"),
        ("{ #![cfg(a)] xs }", "cfg!(a)"),
        ("struct S { #[cfg(a)] b: c } xs", "cfg!(a)"),
        ("#[cfg_attr(a, b, cfg(c))] let d = 1; xs", "cfg!(a),cfg!(c)"),
    ] {
        assert_eq!(found(body).join(","), expected, "{body}");
    }
}

#[test]
fn other_code_has_no_inputs() {
    for body in [
        "xs * line!() * column!() + file!() + module_path!()",
        "xs * my::env!(\"A\") * stringify!(env!(\"A\"))",
        "let cfg = env(1) != include; xs * !cfg",
        "macro_rules! m { ($a:literal) => { env!($a) } } xs",
        "/// Documentation\nlet a = #[allow(unused)] 1; xs",
        "#[doc = include_str!(\"a\")] fn g() {} xs",
    ] {
        assert_eq!(found(body), [""; 0], "{body}");
    }
}

#[test]
fn a_file_is_read_under_the_predicates_of_the_invocation() {
    for (body, expected) in [
        (
            "#[cfg(a)] let b = include_str!(\"c\"); xs",
            "cfg!(a),a=>include!(\"c\")",
        ),
        (
            "#[cfg(a)] { b(include_str!(\"c\")) }",
            "cfg!(a),a=>include!(\"c\")",
        ),
        (
            "#[cfg_attr(a, cfg(b))] let d = include!(\"c\"); xs",
            "cfg!(a),cfg!(b),any(not(a),b)=>include!(\"c\")",
        ),
        (
            "match xs { #[cfg(a)] 1 => m!(include_str!(\"c\")), _ => include_str!(\"d\") }",
            "cfg!(a),a=>include!(\"c\"),include!(\"d\")",
        ),
        (
            "cfg_if::cfg_if! { if #[cfg(a)] { include!(\"b\") } else if #[cfg(c)] { d } else { include!(\"e\") } }",
            "cfg!(all(a)),all(a)=>include!(\"b\"),cfg!(all(c)),cfg!(all()),\
             not(all(a))=>not(all(c))=>all()=>include!(\"e\")",
        ),
        (
            "cfg_select! { a => include!(\"b\"), _ => { include!(\"c\") } }",
            "cfg!(a),a=>include!(\"b\"),cfg!(all()),not(a)=>all()=>include!(\"c\")",
        ),
    ] {
        let found = found(body).join(",").replace(" => ", "=>");
        assert_eq!(found, expected, "{body}");
    }
}
