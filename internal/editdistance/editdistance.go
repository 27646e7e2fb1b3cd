// Package editdistance says how far a word is from another, for messages that name what somebody
// probably meant.
//
// Two words and a limit enter, a number leaves. Anybody may call it, from any goroutine; it keeps nothing.
package editdistance

// Of is how many bytes have to be inserted, removed, replaced or swapped with their neighbours to make one word of the other
// (optimal string alignment); limit if that is as many or more.
func Of(a, b string, limit int) int {
	if len(a) > len(b) {
		a, b = b, a
	}
	if len(b)-len(a) >= limit {
		return limit
	}
	rows := make([]int, 3*(len(a)+1))
	before, above, row := rows[:len(a)+1], rows[len(a)+1:2*(len(a)+1)], rows[2*(len(a)+1):]
	for j := range above {
		above[j] = j
	}
	for i := 1; i <= len(b); i++ {
		row[0] = i
		least := i
		for j := 1; j <= len(a); j++ {
			other := 1
			if b[i-1] == a[j-1] {
				other = 0
			}
			row[j] = min(above[j]+1, row[j-1]+1, above[j-1]+other)
			if i > 1 && j > 1 && b[i-1] == a[j-2] && b[i-2] == a[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
			least = min(least, row[j])
		}
		if least >= limit {
			return limit
		}
		before, above, row = above, row, before
	}
	return min(above[len(a)], limit)
}
