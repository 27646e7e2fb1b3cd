package conn

// HoldsBuffers reports whether c owns pooled memory.
func HoldsBuffers(c *Conn) bool { return c.in != nil || c.out != nil }
