package resource

// What one message may be at most, by who receives it. Whoever would send more says so and
// ends the stream; what was sent before stays in force.
const (
	// MaxResponse is for responses: a mesh of 5,000 services (47 MB) five times over.
	MaxResponse = 256 << 20
	// MaxRequest is for requests: 200,000 names of 80 bytes.
	MaxRequest = 16 << 20
)
