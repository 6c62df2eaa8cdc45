//! What the compiler says to an author who makes a common mistake: each `mistakes/*.rs` with the `.stderr` beside it.
//!
//! Text that is the compiler's own may change with it; `TRYBUILD=overwrite` writes it anew, and review reads the result.

#[test]
fn a_common_mistake_gets_an_error_that_says_what_to_do() {
    trybuild::TestCases::new().compile_fail("tests/mistakes/*.rs");
}
