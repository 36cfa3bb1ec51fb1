//! The canonical text of a function: which edits change it and which do not.

use super::tokens;
use crate::canonical;

/// The text of a parsed function, as the attribute takes it.
fn code(source: &str) -> String {
    let item: syn::ItemFn = syn::parse2(tokens(source)).unwrap();
    let (signature, block) = (item.sig, item.block);
    canonical::text(quote::quote!(#signature #block))
}

#[test]
fn the_text_does_not_change_between_versions() {
    // A change here invalidates every cache on disk.
    assert_eq!(
        code(
            "/// Docs.\n#[inline] pub fn f<'a>(&self, x: &'a T) -> T { x.y(|z| -1.5e3 << 2)?; !b && c }"
        ),
        "fn f < ' a > ( & self , x : & ' a T ) -> T { x . y ( | z | - 1.5e3 << 2 ) ? ; ! b && c }"
            .replace("' a", "'a"),
    );
}

#[test]
fn white_space_and_comments_do_not_change_the_text() {
    let tight = "fn f(x:&T)->Vec<Vec<T>>{if a&&-b>= -1{vec![1,-2]}else{g::<Vec<T>>(..=2)}}";
    let loose = "
        // A comment.
        fn f( x : & T ) -> Vec< Vec<T> > {
            /* another */
            if a && - b >= -1 {
                vec! [ 1, -2 ] // one more
            } else {
                /// Documentation of an expression.
                g::< Vec<T> >( ..= 2 )
            }
        }";
    assert_eq!(code(tight), code(loose));
}

#[test]
fn trailing_commas_do_not_change_the_text() {
    let short = "fn f(a: &T, b: T) -> T { g(a).h([a, b], S { a, b }); match a { _ => !b(a) } }";
    let long = "
        fn f(
            a: &T,
            b: T,
        ) -> T {
            g(
                a,
            )
            .h(
                [
                    a,
                    b,
                ],
                S {
                    a,
                    b,
                },
            );
            match a {
                _ => !b(
                    a,
                ),
            }
        }";
    assert_eq!(code(short), code(long));
}

#[test]
fn different_code_has_different_text() {
    let different = [
        "fn f(x: &T) -> T { x * 2 }",
        "fn f(x: &T) -> T { x * 3 }",
        "fn f(x: &T) -> T { x * 2.0 }",
        "fn g(x: &T) -> T { x * 2 }",
        "fn f(x: &U) -> T { x * 2 }",
        "fn f(x: &T) -> T { (x * 2) }",
        "fn f(x: &T) -> T { x * \"2\" }",
        "fn f(x: &T) -> T { #[cfg(a)] return y; x * 2 }",
        "fn f(x: &T) -> T { #[cfg(b)] return y; x * 2 }",
        "fn f(x: &T) -> T { return (x) }",
        "fn f(x: &T) -> T { return (x,) }",
        "fn f(x: &T) -> T { g((x)) }",
        "fn f(x: &T) -> T { g((x,)) }",
        "fn f(x: &T) -> T { x && y }",
        "fn f(x: &T) -> T { x & &y }",
        "fn f(x: &T) -> T { m!(x && y) }",
        "fn f(x: &T) -> T { m!(x & &y) }",
        "fn f(x: &T) -> T { m!('a') }",
        "fn f(x: &T) -> T { m!('a) }",
        "fn f(x: &T) -> T { m![x] }",
        "fn f(x: &T) -> T { m![x,] }",
        "fn f(x: &T) -> T { m!(g(x)) }",
        "fn f(x: &T) -> T { m!(g(x,)) }",
        "fn f(x: &T) -> T { a::m! { g([x]) } }",
        "fn f(x: &T) -> T { a::m! { g([x,]) } }",
        "fn f(x: &T) -> T { r#match!(x) }",
        "fn f(x: &T) -> T { r#match!(x,) }",
        "fn f(x: &T) -> T { g(m!(x)) }",
        "fn f(x: &T) -> T { g(m!(x,)) }",
        "fn f(x: &T) -> T { m! { /// Documentation\n x } }",
        "fn f(x: &T) -> T { m! { x } }",
        "fn f(x: &T) -> T { macro_rules! m { (a) => { 1 } } x }",
        "fn f(x: &T) -> T { macro_rules! m { (a,) => { 1 } } x }",
        "fn f(x: &T) -> T { #[m(a)] g(x) }",
        "fn f(x: &T) -> T { #[m(a,)] g(x) }",
    ];
    let texts: std::collections::HashSet<String> =
        different.iter().map(|source| code(source)).collect();
    assert_eq!(texts.len(), different.len());
}

#[test]
fn the_value_of_a_macro_variable_is_grouped() {
    use proc_macro2::{Delimiter, Group};
    let sum = Group::new(Delimiter::None, tokens("1 + 2"));
    assert_eq!(canonical::text(quote::quote!(#sum * 3)), "« 1 + 2 » * 3");
}
