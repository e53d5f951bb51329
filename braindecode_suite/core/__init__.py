"""What flows along the arrows: containers, spaces, splits, scores, and the checks that guard them."""
