//! LMDB whose pages are checked: a damaged page is an error, never an answer.
