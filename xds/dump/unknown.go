package dump

import "time"

// UnknownHost is a host that requests asked for and that no virtual host of the route table has, or that connections asked for
// (SNI) and that no filter chain of the listener has: /unknown_hosts of a proxy. The callers got 404 with the flag NR, or the
// alert unrecognized_name, and nothing of this.
type UnknownHost struct {
	Host     string    `json:"host"`
	Table    string    `json:"routes,omitempty"` // the name of the route table
	Listener string    `json:"listener,omitempty"`
	Requests uint64    `json:"requests"` // or connections
	Last     time.Time `json:"last"`
	// Nearest are the hosts of the table or listener that are most like it, Elsewhere the other tables that have it: another port or protocol.
	Nearest   []string `json:"nearest"`
	Elsewhere []string `json:"elsewhere,omitempty"`
}
