package h2

// What a peer makes us do without use is paid from two budgets per connection. Useful work and time refill them, up to where they
// began. An attacker gets what time refills; an honest peer, whatever it does for however long, earns more than it spends.
//
// Resets: 4 × MaxStreams (1,024). A stream that the client resets within a second and before the response's head was sent costs 1
// (rapid reset, CVE-2023-44487), and so does every stream that the peer makes us reset or refuse (CVE-2025-8671). A client may thus
// cancel all its streams four times in a row, when a page is closed or deadlines pass. Every stream that gets its response's head gives
// 1, every second MaxStreams/4: an attacker has 64 requests a second, less than one honest user.
//
// Overhead: 1,000. PING, PRIORITY, WINDOW_UPDATE, DATA without data (padding is none), frames of unknown types and on dead streams
// (DATA on those that we reset: beyond their windows), answers nobody asked for and interim responses cost 1, SETTINGS 10, because they may change every stream. Every stream opened
// gives 10 (browsers sent 6 PRIORITY at the beginning), every DATA frame we send 10 (each is answered by up to 2 WINDOW_UPDATE, by
// readers of small pieces by more; Envoy allows 10), every DATA frame with data received 1 (gRPC sends a PING per round trip with data to
// measure it), every second 100 (keep-alive needs 1 in 10 s). An attacker has 100 such frames a second, about 20 µs of work.
const (
	resetsPerStream   = 4
	prematureAge      = 1e9 // ns
	overheadBurst     = 1000
	overheadPerSecond = 100
	overheadPerStream = 10
	overheadPerSent   = 10
	settingsCost      = 10

	// A header block may come in as many frames: 60 KiB in pieces of 1 KiB, where honest senders fill frames of 16 KiB (CVE-2024-27316).
	maxContinuations = 64
)

type budget struct {
	refilled int64 // when
	resets   int32
	overhead int32
}

func (m *Machine) maxResets() int32 { return int32(resetsPerStream * m.o.MaxStreams) }

// refill adds what passing time gives.
func (m *Machine) refill(now int64) {
	b := &m.budget
	passed := now - b.refilled
	if passed < 1e8 { // worth 10 frames; less is not worth a division
		return
	}
	b.refilled = now
	passed = min(passed, 1e12)
	b.overhead = int32(min(overheadBurst, int64(b.overhead)+passed*overheadPerSecond/1e9))
	b.resets = int32(min(int64(m.maxResets()), int64(b.resets)+passed*int64(m.o.MaxStreams)/4e9))
}

func (m *Machine) earn(overhead int32) {
	m.budget.overhead = min(overheadBurst, m.budget.overhead+overhead)
}

// useful notes a stream that got its response's head.
func (m *Machine) useful() {
	m.budget.resets = min(m.maxResets(), m.budget.resets+1)
}

// spend takes from the overhead budget and reports whether it was there.
func (m *Machine) spend(cost int32, now int64) bool {
	m.refill(now)
	m.budget.overhead -= cost
	return m.budget.overhead >= 0
}

// spendReset is spend for the budget of resets.
func (m *Machine) spendReset(now int64) bool {
	m.refill(now)
	m.budget.resets--
	return m.budget.resets >= 0
}
