//! A plan crosses threads.

use bottle_api::{Plan, PlanSummary};
use std::rc::Rc;

struct MyPlan(Rc<String>);

impl Plan for MyPlan {
    fn summary(&self) -> PlanSummary {
        PlanSummary::default()
    }
}

fn main() {}
