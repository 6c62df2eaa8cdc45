//! A plan that says nothing of itself.

use bottle_api::Plan;

struct MyPlan;

impl Plan for MyPlan {}

fn main() {}
