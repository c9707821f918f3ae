//! Load generator, A/B reports, fio and mdtest recipes.

fn main() {}
