package loop

// Spare is the number of buffers Get(n) can return without making one.
func (p *Pool) Spare(n int) int {
	for i := range classes {
		if n <= classes[i].size {
			return len(p.free[i].free)
		}
	}
	return 0
}
