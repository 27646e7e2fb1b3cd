package dump

import "time"

// OnDemand is what a proxy says of its configuration on demand: /ondemand, which is Weir's
// own (docs/design/ondemand.md).
type OnDemand struct {
	// Active says that it is in use; otherwise the proxy holds everything it may see, and Why
	// says why.
	Active bool   `json:"active"`
	Why    string `json:"why,omitempty"`
	// Away is why there is no control plane to ask; "" if there is one.
	Away string `json:"away,omitempty"`
	// Index is how many listeners and virtual hosts there are; nil: nobody has said yet.
	Index *int `json:"index"`
	// Resources are those asked for by name, and those that siblings use, in order of type and name.
	Resources []Demanded `json:"resources"`

	// Held are the requests and connections that wait now, HeldBytes the bodies kept meanwhile.
	Held      int   `json:"held"`
	HeldBytes int64 `json:"heldBytes"`
	// Demands counts what was asked for because it was not there, Waits the requests and
	// connections that have waited, Refused and Expired those of them that were not served:
	// too much waited already, nothing came in time.
	Demands     uint64 `json:"demands"`
	Waits       uint64 `json:"waits"`
	Refused     uint64 `json:"refused"`
	Expired     uint64 `json:"expired"`
	LongestWait string `json:"longestWait"`
}

// Demanded is a listener or virtual host of configuration on demand.
type Demanded struct {
	Type  string `json:"type"` // LDS, VHDS
	Name  string `json:"name"`
	State string `json:"state"`
	// Since is when it was asked for; nil if it came without. Idle is for how many minutes it
	// was not used then.
	Since *time.Time `json:"since,omitempty"`
	Idle  *int       `json:"idleMinutes,omitempty"`
	// Missing is what has to come before it is served as it is now: "CDS outbound|80||shop".
	Missing []string `json:"missing,omitempty"`
}

// States of a Demanded.
const (
	Served  = "SERVED"  // it was asked for and is in use, or as it was before while something is missing
	Waiting = "WAITING" // it was asked for and is not there, or not all that it needs
	Absent  = "ABSENT"  // it was asked for, and there is none
	Learned = "LEARNED" // it was sent because other replicas use it, and not used here
)
