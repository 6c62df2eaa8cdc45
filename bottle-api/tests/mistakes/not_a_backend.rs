//! The plan is exported, not the backend.

struct MyPlan;

bottle_api::export_backend!("mine", MyPlan);

fn main() {}
