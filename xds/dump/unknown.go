package dump

import "time"

// UnknownHost is a host that requests asked for and that no virtual host of the route table has: /unknown_hosts of a proxy. The
// callers got 404 with the flag NR, and nothing of this.
type UnknownHost struct {
	Host     string    `json:"host"`
	Table    string    `json:"routes"` // the name of the route table
	Requests uint64    `json:"requests"`
	Last     time.Time `json:"last"`
	// Nearest are the hosts of the table that are most like it, Elsewhere the other tables that have it: another port or protocol.
	Nearest   []string `json:"nearest"`
	Elsewhere []string `json:"elsewhere,omitempty"`
}
