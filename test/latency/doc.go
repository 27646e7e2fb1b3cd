// Package latency measures how soon weir-proxy answers when it has something else to do,
// and how soon after it began.
//
// Nothing enters; figures leave in the log (make latency). Without LATENCY=1 each test
// only shows in a moment that it works, because what it measures is the machine's as well:
// with it, figures above their bars (docs/performance.md) fail, and the machine should have
// nothing else to do. TestScheduler asks a process whose only worker is saturated for
// handshakes, configuration and its admin interface; TestTwenty sends calls through twenty
// proxies of one process in a row; TestBegin has sidecars of a mesh begin; TestIdle looks at
// what proxies cost that have nothing to do.
package latency
