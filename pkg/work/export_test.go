package work

// Waiting is how many reservations wait for others.
func Waiting(s *Service) int {
	s.book.mu.Lock()
	defer s.book.mu.Unlock()
	return len(s.book.waiting)
}

// Journals is how many journals a service keeps in memory.
func Journals(s *Service) int {
	s.book.mu.Lock()
	defer s.book.mu.Unlock()
	return len(s.book.journals)
}
