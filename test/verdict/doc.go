// Package verdict holds what the control plane says of every rule (config/verdict) against what
// calls do: sets of random objects, valid and not, enter; each rule must have one verdict in
// each place, the example of an active rule must get to it, and no call to one that is not.
// Calls are simulated over the generated xDS for all sets, and made through real proxies for
// some, which must agree.
//
// VERDICT_SETS says how many sets (make verdicts: 10,000, and 500 by real proxies, in three minutes).
package verdict
