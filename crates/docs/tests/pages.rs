//! The documentation of this repository: every shell block is run by a test or says why not, no link is dead, the book has every page.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use godwit_docs::{block, book, links};

#[test]
fn every_shell_block_is_run_or_says_why_not() {
    let root = book::root();
    for page in book::pages(&root).unwrap() {
        if let Err(error) = block::read(&std::fs::read_to_string(root.join(&page)).unwrap()) {
            panic!("{}: {error:#}", page.display());
        }
    }
}

#[test]
fn no_link_is_dead() {
    let root = book::root();
    let pages: Vec<_> = book::pages(&root).unwrap().into_iter().chain([book::SUMMARY.into()]).collect();
    let dead = links::dead(&root, &pages).unwrap();
    assert!(dead.is_empty(), "{}", dead.join("\n"));
}

#[test]
fn the_book_has_every_page_once() {
    let root = book::root();
    let forgotten = book::forgotten(&root).unwrap();
    assert!(forgotten.is_empty(), "not in docs/SUMMARY.md: {forgotten:?}");
    let mut pages = book::pages(&root).unwrap();
    let count = pages.len();
    pages.sort();
    pages.dedup();
    assert_eq!(pages.len(), count, "a page is listed twice");
}
